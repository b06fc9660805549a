"""What names, passwords and keys must be like, and how long somebody waits who guesses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from milonga_hub.callers import Role
from milonga_hub.errors import InvalidInput, PermissionDenied

# NIST SP 800-63B: length is what counts; rules on digits and signs only make passwords worse.
MIN_PASSWORD_LENGTH = 12
_MAX_PASSWORD_LENGTH = 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,62}")
# What the audit log calls who has the hub's local key.
LOCAL_NAME = "local"
_MAX_LABEL_LENGTH = 100
_PROJECT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MOST_PROJECTS = 100

DEFAULT_KEY_LIFETIME = timedelta(days=90)
_MAX_KEY_LIFETIME = timedelta(days=366)

# Typing errors cost nothing; from then on each failure doubles the wait, for guesses at one account from many addresses and
# at many accounts from one. A whole office may share an address.
FREE_FOR_ACCOUNT, FREE_FOR_ADDRESS = 5, 50
_FIRST_WAIT = timedelta(seconds=5)
_LONGEST_WAIT = timedelta(minutes=15)
# After a day without a failure, all is forgotten.
FAILURES_REMEMBERED = timedelta(days=1)


def check_name(name: str) -> None:
    """Raise InvalidInput for what cannot be an account's name."""
    if not _NAME.fullmatch(name) or name == LOCAL_NAME:
        raise InvalidInput(
            f"{name!r} is not a name for an account; take 1 to 63 of a-z, 0-9 and . _ @ + -, a letter or digit first"
        )


def check_password(name: str, password: str) -> None:
    """Raise InvalidInput for a password that is easily guessed."""
    if len(password) < MIN_PASSWORD_LENGTH:
        raise InvalidInput(f"the password must have {MIN_PASSWORD_LENGTH} characters or more; a few words are good")
    if len(password) > _MAX_PASSWORD_LENGTH:
        raise InvalidInput(f"the password must have {_MAX_PASSWORD_LENGTH} characters or less")
    if len(set(password)) < 4 or password.casefold() == name.casefold():
        raise InvalidInput("the password is too easy to guess; a few words are good")


def check_label(label: str) -> None:
    if not label.strip() or len(label) > _MAX_LABEL_LENGTH or not label.isprintable():
        raise InvalidInput(f"say what the key is for, in 1 to {_MAX_LABEL_LENGTH} characters")


def key_lifetime(seconds: int) -> timedelta:
    """Return how long a key lives; 0 takes the default. Raises InvalidInput."""
    if not 0 <= seconds <= _MAX_KEY_LIFETIME.total_seconds():
        raise InvalidInput(
            f"lifetime_seconds must be 0 ({DEFAULT_KEY_LIFETIME.days} days) to {_MAX_KEY_LIFETIME.total_seconds():.0f}"
        )
    return timedelta(seconds=seconds) if seconds else DEFAULT_KEY_LIFETIME


def lesser(first: Role, second: Role) -> Role:
    """Return the role that may less."""
    return second if first.may(second) else first


def check_given_role(giver: Role, given: Role) -> None:
    """Raise PermissionDenied where somebody would give away more than they have."""
    if not giver.may(given):
        raise PermissionDenied(f"your role is {giver.lower()}; you can make keys for {giver.lower()} or less")


def check_projects(names: Sequence[str]) -> tuple[str, ...]:
    """Return the projects in order, each once; they may be made later. Raises InvalidInput for what cannot be one."""
    for name in names:
        if not _PROJECT.fullmatch(name):
            raise InvalidInput(f"{name!r} is not the name of a project; see: milonga projects list")
    if len(names) > _MOST_PROJECTS:
        raise InvalidInput(f"a key is for at most {_MOST_PROJECTS} projects; leave them out for all")
    return tuple(sorted(set(names)))


def contains(among: Sequence[str], one: str) -> bool:
    return one in among


def given(
    own: Sequence[str], wanted: Sequence[str], what: str, covers: Callable[[Sequence[str], str], bool]
) -> Sequence[str]:
    """Return the limits of a key that somebody with limits of their own makes, which are theirs where none are wanted.

    Raises PermissionDenied where somebody would give away more than they have.
    """
    beyond = [one for one in wanted if own and not covers(own, one)]
    if beyond:
        raise PermissionDenied(f"your own key has the {what} {', '.join(own)}; it can make none with {beyond[0]}")
    return wanted or own


def wait_until(count: int, free: int, last_at: datetime) -> datetime:
    """Return from when on somebody who failed `count` times, last at `last_at`, may try again."""
    if count < free:
        return last_at
    # The exponent is bounded: 2**10 * 5 s is far above the longest wait.
    doubled: timedelta = _FIRST_WAIT * 2 ** min(count - free, 10)
    return last_at + min(doubled, _LONGEST_WAIT)


def network_of(address: str) -> str:
    """Return the address as guesses are counted for it: of IPv6 the first 64 bits, for a subscriber has all the others."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
