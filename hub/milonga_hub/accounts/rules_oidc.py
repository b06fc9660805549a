"""Who somebody is, and what they may, by what a provider of sign-ins says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milonga_hub.accounts.rules import check_name
from milonga_hub.callers import Role
from milonga_hub.errors import InvalidInput, PermissionDenied

NO_ROLE = "none"


@dataclass(frozen=True)
class Admission:
    """Whom a hub lets in, and as what."""

    # The claim that holds a word or a list of words, and the role of each word; of several the one that may most.
    role_claim: str
    roles: Mapping[str, Role]
    # Of those whose words have no role; None refuses them.
    default_role: Role | None
    # Of e-mail addresses; empty: any.
    domains: frozenset[str]


@dataclass(frozen=True)
class Identity:
    """Somebody whom the provider vouches for."""

    # Of the provider's own, and never given to somebody else; e-mail addresses are.
    subject: str
    name: str
    role: Role
    # Whether the role follows the provider's claims at each sign-in, and not what an admin of the hub gave.
    is_mapped: bool


def admission(role_claim: str, roles: Sequence[str], default_role: str, domains: Sequence[str]) -> Admission:
    """Return the rules of the settings. Raises ValueError saying which of them cannot be understood."""
    found = {}
    for each in roles:
        word, equals, role = each.rpartition("=")
        if not word or not equals or role.upper() not in set(Role):
            raise ValueError(f"{each!r} gives no role; write WORD=viewer, WORD=operator or WORD=admin")
        found[word] = Role(role.upper())
    default = None if default_role == NO_ROLE else Role(default_role.upper())
    return Admission(role_claim, found, default, frozenset(each.lower().lstrip("@") for each in domains))


def identify(issuer: str, claims: Mapping[str, Any], rules: Admission) -> Identity:
    """Return who this is. Raises PermissionDenied saying why somebody is not let in."""
    email = str(claims.get("email") or "").strip().lower()
    if not email:
        raise PermissionDenied("no e-mail address was told; let the provider give the scope email to this hub")
    # Some providers write it as text.
    if claims.get("email_verified") not in (True, "true"):
        raise PermissionDenied(f"the address {email} is not verified; verify it with the provider and sign in again")
    local_part, _, domain = email.rpartition("@")
    if rules.domains and (not local_part or domain not in rules.domains):
        raise PermissionDenied(f"this hub takes no addresses like {email}; use another account, or ask an admin")
    try:
        check_name(email)
    except InvalidInput as error:
        raise PermissionDenied(f"the address {email} cannot be the name of an account here: {error}") from error
    role = _role(claims.get(rules.role_claim), rules)
    if role is None:
        raise PermissionDenied(f"{email} has no role here; ask an admin for a group that has one")
    return Identity(f"{issuer} {claims['sub']}", email, role, bool(rules.roles))


def _role(said: Any, rules: Admission) -> Role | None:
    words = said if isinstance(said, list) else [said]
    given = [rules.roles[word] for word in words if isinstance(word, str) and word in rules.roles]
    most = next((role for role in reversed(Role) if role in given), None)
    return most or rules.default_role
