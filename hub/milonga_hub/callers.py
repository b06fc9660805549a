"""Who asks: the caller of the request that is being answered, set once at the door and known to all that it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from milonga_hub.errors import NotFound, PermissionDenied, Unauthenticated


class Role(StrEnum):
    """What one may do; each may all that the one before it may."""

    VIEWER = "VIEWER"
    OPERATOR = "OPERATOR"
    ADMIN = "ADMIN"

    def may(self, least: Role) -> bool:
        """Return whether this role is at least `least`."""
        return _ORDER.index(self) >= _ORDER.index(least)


_ORDER = list(Role)


class CallerKind(StrEnum):
    """How a caller proved who it is."""

    ACCOUNT = "ACCOUNT"
    API_KEY = "API_KEY"
    # By the key in the hub's own data folder.
    LOCAL = "LOCAL"


@dataclass(frozen=True)
class Caller:
    """Somebody who has proved who they are."""

    name: str
    kind: CallerKind
    role: Role
    # Of an API key, "" for others.
    key_id: str = ""
    # The account that it acts for; "" for the hub's own machine and keys that were made there.
    account: str = ""
    # In which pages speak to its account; "" is what the browser asks for.
    language: str = ""
    # What a key may do beside its role, such as "rollouts:write", and for which projects; none means all.
    scopes: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()

    @property
    def is_limited(self) -> bool:
        """Return whether it is a key that reaches less than its role would."""
        return bool(self.scopes or self.projects)


@dataclass
class Asking:
    """One request: who asks, and what those who answer it have to say for the audit log."""

    caller: Caller | None
    # Who somebody says they are that is about to prove it.
    claimed: str = ""
    # Why it was refused.
    problem: str = ""
    # What a form is about, where its address does not say it.
    resource: str = ""
    # Nothing was changed: a look at what would change, or one guess too many.
    is_unrecorded: bool = False
    # Where its caller is limited to projects: the data sets that they use, and whether no other project does.
    datasets: Callable[[], Mapping[str, bool]] = dict


_CURRENT: ContextVar[Asking | None] = ContextVar("asking", default=None)


def ask(caller: Caller | None) -> Asking:
    """Let `caller` be who asks from now on in this task and all that it starts."""
    asking = Asking(caller)
    _CURRENT.set(asking)
    return asking


def current() -> Caller | None:
    """Return who asks, None outside of a request and where nobody has signed in."""
    asking = _CURRENT.get()
    return None if asking is None else asking.caller


def caller() -> Caller:
    """Return who asks. Raises Unauthenticated where nobody has signed in."""
    found = current()
    if found is None:
        raise Unauthenticated("sign in first")
    return found


def seen_projects() -> frozenset[str] | None:
    """Return the projects that lists may show, None for all."""
    found = current()
    return frozenset(found.projects) if found is not None and found.projects else None


def seen_datasets() -> frozenset[str] | None:
    """Return the data sets that lists may show, None for all."""
    asking = _CURRENT.get()
    return None if asking is None or seen_projects() is None else frozenset(asking.datasets())


def need_project(name: str) -> None:
    """Raise NotFound where the caller's key is for other projects; for what the door cannot read in a request."""
    seen = seen_projects()
    if seen is not None and name not in seen:
        raise not_reached(name)


def need_dataset(name: str, *, to_change: bool = False) -> None:
    """Raise NotFound where no project of the caller's key uses the data set; where others do too, it is only read."""
    asking = _CURRENT.get()
    if asking is None or seen_projects() is None:
        return
    datasets = asking.datasets()
    if name not in datasets:
        raise not_reached(name)
    if to_change and not datasets[name]:
        raise PermissionDenied(
            f"projects that this key does not reach learn of {name} too; change it with a key that is not limited to projects"
        )


def need_scope(scope: str) -> None:
    """Raise PermissionDenied where the caller's key lacks a scope that only some calls of an operation need."""
    found = current()
    if found is not None and found.scopes and scope not in found.scopes:
        raise lacking(found, scope)


def not_reached(name: str) -> NotFound:
    """Return the one answer for what does not exist and what the caller's key does not reach."""
    return NotFound(f"there is no {name}, or the key that you use is not for its project; see: milonga whoami")


def lacking(caller: Caller, scope: str) -> PermissionDenied:
    return PermissionDenied(
        f"this key has {', '.join(caller.scopes)}, and this needs {scope}; make another: milonga api-keys create"
        f" WHAT-FOR --scope {scope}"
    )


def claim(name: str) -> None:
    """Tell the audit log who somebody says they are."""
    asking = _CURRENT.get()
    if asking is not None:
        asking.claimed = name


def prove(caller: Caller) -> None:
    """Tell the audit log who somebody has just proved to be."""
    asking = _CURRENT.get()
    if asking is not None:
        asking.caller = caller


def tell_problem(text: str) -> None:
    """Tell the audit log why a request is refused."""
    asking = _CURRENT.get()
    if asking is not None:
        asking.problem = text


def tell_resource(path: str) -> None:
    """Tell the audit log what a form is about: the path of what it makes or changes."""
    asking = _CURRENT.get()
    if asking is not None:
        asking.resource = path


def leave_unrecorded(is_so: bool = True) -> None:
    """Keep this request out of the audit log: nothing was changed by a look at what would, or by one guess too many."""
    asking = _CURRENT.get()
    if asking is not None:
        asking.is_unrecorded = is_so


def signature(said: str) -> str:
    """Return the name for the record: who is signed in, whatever they said.

    The hub's local key proves only that somebody may read the hub's data folder; what they call themselves is added.
    """
    found = current()
    if found is None:
        return said
    if found.kind is CallerKind.LOCAL and said.strip():
        return f"{said.strip()} ({found.name})"
    return found.name


def by_whom(done: str) -> str:
    """Return what was done with who did it, for the record: "refused by ana"; without a name outside of a request."""
    found = current()
    if found is None:
        return done
    return f"{done} with the hub's local key" if found.kind is CallerKind.LOCAL else f"{done} by {found.name}"
