"""What is signed by whom, for how long, and when it is signed again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Delegations, Key, Metadata, Root, Targets, VerificationResult

from milonga_hub.errors import InvalidInput

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
# These sign again and again while the hub runs, so their keys stay with it.
ONLINE = (SNAPSHOT, TIMESTAMP)
_PROJECT = "project-"

# An attacker who holds back metadata is noticed after a day; a year is what TUF's users give offline roles.
_LIFETIMES = {TIMESTAMP: timedelta(days=1), SNAPSHOT: timedelta(days=7)}
_OFFLINE_LIFETIME = timedelta(days=365)
# Offline roles are renewed, or their owners reminded, this long before they end.
_NOTICE = timedelta(days=30)


def role_of(project: str) -> str:
    """Return the role that signs a project's builds."""
    return _PROJECT + project


def target_of(project: str, bundle: str) -> str:
    """Return the name under which a bundle's manifest is signed; the agent asks for the same."""
    return f"{project}/{bundle.removeprefix('sha256:')}"


def is_signing_role(role: str) -> bool:
    """Say whether people may hold keys of the role and change them."""
    return role in (ROOT, TARGETS, *ONLINE) or role.startswith(_PROJECT)


def expiry(role: str, now: datetime) -> datetime:
    """Return until when what the role signs now is good. TUF counts whole seconds."""
    return (now + _LIFETIMES.get(role, _OFFLINE_LIFETIME)).replace(microsecond=0)


def due_at(role: str, expires: datetime) -> datetime:
    """Return when the role must sign again: at half its time where that needs nobody, else a month before the end."""
    return expires - (_LIFETIMES[role] / 2 if role in ONLINE else _NOTICE)


def delegate(targets: Targets, project: str, keys: Iterable[Key], threshold: int) -> None:
    """Let the keys sign builds of the project, and of no other, in place of those that did before."""
    delegations = targets.delegations or Delegations({}, {})
    assert delegations.roles is not None
    role = role_of(project)
    for keyid in list(delegations.roles[role].keyids) if role in delegations.roles else []:
        targets.revoke_key(keyid, role)
    # Terminating: what a project's role does not name, no other role may name in its place.
    delegations.roles[role] = DelegatedRole(role, [], threshold, True, paths=[f"{project}/*"])
    targets.delegations = delegations
    for key in keys:
        targets.add_key(key, role)


def replace_keys(root: Root, role: str, keys: Iterable[Key], threshold: int) -> None:
    """Let these keys sign for a top-level role in place of those that did before."""
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    root.roles[role].threshold = threshold
    for key in keys:
        root.add_key(key, role)


def check_threshold(key_count: int, threshold: int) -> None:
    if not 1 <= threshold <= key_count:
        raise InvalidInput(
            f"a threshold of {threshold} cannot be reached with {key_count} key{'s' * (key_count != 1)}; give 1 to {key_count}"
        )


def keys_of(role: str, root: Root, targets: Targets) -> tuple[list[Key], int]:
    """Return who may sign for the role, and how many of them must."""
    if role in root.roles:
        found = root.roles[role]
        return [root.keys[keyid] for keyid in found.keyids], found.threshold
    delegations = targets.delegations
    if delegations is None or delegations.roles is None or role not in delegations.roles:
        return [], 1
    delegated = delegations.roles[role]
    return [delegations.keys[keyid] for keyid in delegated.keyids], delegated.threshold


def missing_signatures(role: str, known: Mapping[str, Metadata[Any]], former: Root | None) -> int:
    """Return how many signatures the role's metadata lacks; a new root needs those of the former one as well."""
    # None where nobody may sign for it: the change that says who may waits itself.
    return max((each.missing for each in _verified(role, known, former)), default=1)


def counting_keys(role: str, known: Mapping[str, Metadata[Any]], former: Root | None) -> set[str]:
    """Return the ids of the keys whose signatures on the role's metadata count."""
    return {keyid for each in _verified(role, known, former) for keyid in each.signed}


def lacking_keys(role: str, known: Mapping[str, Metadata[Any]], former: Root | None) -> list[str]:
    """Return the ids of keys whose signatures on the role's metadata would do, as many as it lacks."""
    lacking = (keyid for each in _verified(role, known, former) for keyid in list(each.unsigned)[: each.missing])
    return list(dict.fromkeys(lacking))


def _verified(role: str, known: Mapping[str, Metadata[Any]], former: Root | None) -> list[VerificationResult]:
    """Return what those who say who may sign for the role say of its metadata: two for a new root, none where nobody may."""
    root, targets, wanted = known[ROOT].signed, known[TARGETS].signed, known[role]
    assert isinstance(root, Root) and isinstance(targets, Targets)
    if not keys_of(role, root, targets)[0]:
        return []
    delegators: list[Root | Targets] = [root if role in root.roles else targets]
    if role == ROOT and former is not None:
        delegators.append(former)
    return [each.get_verification_result(role, wanted.signed_bytes, wanted.signatures) for each in delegators]


def parse(data: bytes) -> Metadata[Any]:
    """Return metadata that people hand over. Raises InvalidInput for what is none."""
    try:
        found: Metadata[Any] = Metadata.from_bytes(data)
    except RepositoryError as error:
        raise InvalidInput(f"this is not TUF metadata: {error}") from error
    return found


def described(signed: Root | Targets) -> list[str]:
    """Return in lines what somebody is about to sign."""
    if isinstance(signed, Root):
        return [
            f"root version {signed.version}, good until {signed.expires:%Y-%m-%d}",
            *(f"{role}: {each.threshold} of {len(each.keyids)} keys" for role, each in sorted(signed.roles.items())),
        ]
    roles = (signed.delegations.roles if signed.delegations else None) or {}
    return [
        f"targets version {signed.version}, good until {signed.expires:%Y-%m-%d}: {len(signed.targets)} bundles",
        *(f"{role}: {each.threshold} of {len(each.keyids)} keys" for role, each in sorted(roles.items())),
        *(f"bundle {name}" for name in sorted(signed.targets)),
    ]
