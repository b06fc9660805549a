"""Sign what devices may install, with TUF: https://theupdateframework.github.io/specification/latest/.

Root says who signs what; targets delegates the builds of each project to keys of its own; snapshot and timestamp prove
that nothing is left out or old. Metadata for which too few keys are here is staged until their owners have signed it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from milonga_hub.db import utc_now
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.signing import rules
from milonga_hub.signing.keys import KeyRing, short
from milonga_hub.signing.repository import Repository
from milonga_hub.signing.rules import ONLINE, ROOT, SNAPSHOT, TARGETS, TIMESTAMP

_log = logging.getLogger(__name__)

_Known = dict[str, Metadata[Any]]


@dataclass(frozen=True)
class RoleStatus:
    """Who signs for a role, and until when what they signed is good."""

    role: str
    threshold: int
    key_ids: list[str]
    here: list[str]
    version: int
    expires_at: datetime | None
    # Signatures that its staged metadata lacks; None where nothing is staged.
    missing_signatures: int | None
    # Keys, as many as it lacks, that would do for that.
    lacking_key_ids: list[str]


class SigningService:
    """Keys and metadata of one hub, in one folder. Safe to use from several threads and processes."""

    def __init__(self, folder: Path, clock: Callable[[], datetime] = utc_now) -> None:
        self.folder = folder
        self.ring = KeyRing(folder / "keys")
        self._published = Repository(folder / "metadata")
        self._staged = Repository(folder / "staged")
        self._clock = clock
        self._changing = threading.Lock()
        self._due_at: datetime | None = None

    # Beginning and going on.

    def prepare(self, key_count: int = 1, threshold: int = 1) -> bool:
        """Make what is missing, renew what is due, and return whether keys were made now.

        `key_count` and `threshold` are those of root and targets, where they are made.
        """
        rules.check_threshold(key_count, threshold)
        with self._locked():
            new = self._published.latest(ROOT) is None
            if new:
                self._begin(key_count, threshold)
            self._renew()
        return new

    def _begin(self, key_count: int, threshold: int) -> None:
        root, now = Root(expires=rules.expiry(ROOT, self._clock()), consistent_snapshot=True), self._clock()
        for role in (ROOT, TARGETS):
            keys = [self.ring.generate().public_key for _ in range(key_count)]
            rules.replace_keys(root, role, keys, threshold)
        for role in ONLINE:
            rules.replace_keys(root, role, [self.ring.generate().public_key], 1)
        self._commit({ROOT: Metadata(root), TARGETS: Metadata(Targets(expires=rules.expiry(TARGETS, now)))})

    def _renew(self) -> None:
        """Sign again what ends soon and can be signed here; say what cannot."""
        now, changes = self._clock(), {}
        for role, known in self._known().items():
            if rules.due_at(role, known.signed.expires) > now:
                continue
            if self._can_sign(role):
                changes[role] = self._next(role)
            else:
                _log.warning(
                    "what %s signed is good until %s only, and its keys are not here; run: milonga keys renew %s",
                    role, known.signed.expires, role,
                )  # fmt: skip
        if changes:
            self._commit(changes)
        self._publish_online()
        offline = [rules.due_at(role, each.signed.expires) for role, each in self._known().items()]
        online = [rules.due_at(role, self._online(role).expires) for role in ONLINE]
        # What is overdue for want of keys is looked at again when timestamp is.
        self._due_at = min([*(due for due in offline if due > now), *online])

    # What agents and builds ask.

    def metadata(self, name: str) -> bytes:
        """Return a file of metadata by its name in TUF, freshly signed where that is due. Raises NotFound."""
        if self._due_at is None or self._clock() >= self._due_at:
            self.prepare()
        return self._published.read(name)

    def sign(self, project: str, bundles: Mapping[str, int]) -> None:
        """Let devices install these bundles: digest and size of the manifest. What is signed or staged stays so."""
        if not bundles:
            return
        with self._locked():
            role, changes = rules.role_of(project), {}
            if role not in self._delegations(self._newest(TARGETS).signed):
                targets = self._next(TARGETS)
                rules.delegate(targets.signed, project, [self.ring.generate().public_key], 1)
                changes = {TARGETS: targets, role: Metadata(Targets(expires=rules.expiry(role, self._clock())))}
            known = changes.get(role) or self._newest(role)
            new = {bundle: size for bundle, size in bundles.items() if not _names(known, project, bundle)}
            if not new:
                return
            changed = changes.get(role) or self._next(role)
            for bundle, size in new.items():
                path = rules.target_of(project, bundle)
                changed.signed.targets[path] = TargetFile(size, {"sha256": path.rpartition("/")[2]}, path)
            if not self._commit({**changes, role: changed}):
                _log.warning("%d builds of %s wait for signatures; see: milonga keys status", len(new), project)

    def is_signed(self, project: str, bundle: str) -> bool:
        """Say whether devices would install the bundle."""
        targets, role = self._published.latest(TARGETS), rules.role_of(project)
        if targets is None or role not in self._delegations(targets.signed):
            return False
        known = self._published.latest(role)
        return known is not None and _names(known, project, bundle)

    # What people do with keys.

    def status(self) -> list[RoleStatus]:
        """Return every role. Raises FailedPrecondition before there is any."""
        known, staged = self._known(), self._staged_changes()
        if not known:
            raise FailedPrecondition(
                f"there are no signing keys in {self.folder}; name the hub's data folder with --data-dir, or make them: milonga keys init"
            )
        return [self._status(role, known, staged) for role in (ROOT, TARGETS, *ONLINE, *_projects(known, staged))]

    def _status(self, role: str, known: _Known, staged: _Known) -> RoleStatus:
        newest = {**known, **staged}
        keys, threshold = rules.keys_of(role, newest[ROOT].signed, newest[TARGETS].signed)
        published = self._published.latest(role)
        former, waits = known[ROOT].signed, role in staged
        return RoleStatus(
            role=role,
            threshold=threshold,
            key_ids=[key.keyid for key in keys],
            here=[key.keyid for key in keys if self.ring.holds(key.keyid)],
            version=published.signed.version if published else 0,
            expires_at=published.signed.expires if published else None,
            missing_signatures=rules.missing_signatures(role, newest, former) if waits else None,
            lacking_key_ids=rules.lacking_keys(role, newest, former) if waits else [],
        )

    def export(self, role: str, folder: Path) -> list[Path]:
        """Move a role's keys off this hub. Raises InvalidInput for one that the hub must sign with itself."""
        if role in ONLINE:
            raise InvalidInput(f"the hub signs with {role} while it runs, so its key stays; export root or targets")
        with self._locked():
            here = self._role(role).here
            if not here:
                raise FailedPrecondition(f"no key of {role} is here; see: milonga keys status")
            return [self.ring.export(keyid, folder) for keyid in here]

    def rotate(self, role: str, keys: Sequence[Key], threshold: int) -> bool:
        """Let other keys sign for the role (none given: a new one, made here); return whether that is in force already."""
        with self._locked():
            self._role(role)
            keys = keys or [self.ring.generate().public_key]
            rules.check_threshold(len(keys), threshold)
            if role in (ROOT, TARGETS, *ONLINE):
                changes = {ROOT: self._next(ROOT)}
                rules.replace_keys(changes[ROOT].signed, role, keys, threshold)
                if role == TARGETS:
                    changes[TARGETS] = self._next(TARGETS)
            else:
                changes = {TARGETS: self._next(TARGETS), role: self._next(role)}
                project = role.removeprefix(rules.role_of(""))
                rules.delegate(changes[TARGETS].signed, project, keys, threshold)
            return self._commit(changes)

    def renew(self, role: str) -> bool:
        """Sign the role's metadata again for its whole lifetime; return whether that is in force already."""
        with self._locked():
            self._role(role)
            return self._publish_online(again=True) if role in ONLINE else self._commit({role: self._next(role)})

    def overtake(self, versions: int) -> list[str]:
        """Let all versions go ahead by so many, and return the roles for which keys are missing here.

        After a backup was restored, devices may have seen later versions than it knows, and believe none that is earlier.
        """
        with self._locked():
            behind = [role for role in self._known() if role != ROOT]
            unsigned = [role for role in behind if not self._can_sign(role)]
            changes = {role: self._next(role) for role in behind if role not in unsigned}
            for change in changes.values():
                change.signed.version += versions
            if changes:
                self._commit(changes)
            if self._known():
                self._publish_online(ahead=versions)
            return unsigned

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let nobody change metadata or keys within the block, so that they can be copied."""
        with self._locked():
            yield

    def publish(self, signed: Sequence[Metadata[Any]]) -> bool:
        """Take metadata that was signed elsewhere; return whether all that waits is in force now.

        Raises InvalidInput for other metadata than waits, and where only keys have signed it that do not count.
        """
        with self._locked():
            staged = self._staged_changes()
            for each in signed:
                role = next((r for r, known in staged.items() if known.signed == each.signed), None)
                if role is None:
                    raise InvalidInput(self._does_not_wait(each))
                counting = self._counting(role, each, {**self._known(), **staged})
                staged[role].signatures.update({key: each.signatures[key] for key in counting})
            return self._commit(staged)

    def _counting(self, role: str, signed: Metadata[Any], whole: _Known) -> set[str]:
        """Return the keys that have signed and count. Raises InvalidInput where none does, and one is needed."""
        counting = rules.counting_keys(role, {**whole, role: signed}, self._known()[ROOT].signed)
        status = self._role(role)
        if not counting and status.lacking_key_ids:
            wanted = ", ".join(map(short, status.key_ids))
            by = f"only {', '.join(map(short, signed.signatures))}" if signed.signatures else "nobody"
            raise InvalidInput(
                f"{by} has signed version {signed.signed.version} of {role}, for which {wanted} may sign: milonga keys sign"
                f" {signed.signed.version}.{role}.json --key {short(status.lacking_key_ids[0])}.pem"
            )
        return counting

    def _does_not_wait(self, signed: Metadata[Any]) -> str:
        """Return why metadata that was handed over is of no use."""
        role = next((role for role, known in self._known().items() if known.signed == signed.signed), "")
        if role:
            return f"version {signed.signed.version} of {role} is in force already"
        files = ", ".join(path.name for path in self.staged_files()) or "nothing"
        return (
            f"this is not the {signed.signed.type} metadata that waits in {self._staged.folder}, where {files} waits now; take what"
            " waits to where the keys are, and sign that"
        )

    def staged_files(self) -> list[Path]:
        """Return what waits for signatures."""
        return sorted(self._staged.folder.glob("*.json"))

    # Changing metadata.

    def _commit(self, changes: _Known) -> bool:
        """Sign the changes with the keys that are here; publish them if that suffices, else stage them."""
        for candidate in ({**self._staged_changes(), **changes}, changes):
            whole = {**self._known(), **candidate}
            for role in candidate:
                self._sign(role, whole)
            if self._is_whole(whole):
                break
        else:
            for role, metadata in self._staged_changes().items():
                changes.setdefault(role, metadata)
            self._replace_staged(changes)
            return False
        # Root last of these: it may name keys that the others are signed with already.
        for role in sorted(candidate, key=lambda each: each == ROOT):
            self._published.write(role, candidate[role])
        waiting = self._staged_changes()
        self._replace_staged({role: each for role, each in waiting.items() if role not in candidate})
        self._publish_online()
        return True

    def _is_whole(self, whole: _Known) -> bool:
        former = self._published.latest(ROOT)
        return not any(
            rules.missing_signatures(role, whole, former.signed if former and role == ROOT else None) for role in whole
        )

    def _sign(self, role: str, whole: _Known) -> None:
        keys, _ = rules.keys_of(role, whole[ROOT].signed, whole[TARGETS].signed)
        former = self._published.latest(ROOT)
        if role == ROOT and former is not None:
            keys = [*keys, *rules.keys_of(ROOT, former.signed, whole[TARGETS].signed)[0]]
        for signer in self.ring.signers(keys):
            whole[role].sign(signer, append=True)

    def _replace_staged(self, changes: _Known) -> None:
        former = set(self.staged_files())
        for role, metadata in changes.items():
            self._staged.write(role, metadata)
        for path in former - {
            self._staged.folder / f"{each.signed.version}.{role}.json" for role, each in changes.items()
        }:
            path.unlink()

    def _publish_online(self, again: bool = False, ahead: int = 0) -> bool:
        """Bring snapshot and timestamp up to what is published, in this order, and renew what is due of them.

        `ahead`: let their versions skip so many.
        """
        again = again or ahead > 0
        now, root = self._clock(), self._known()[ROOT].signed
        versions = {
            f"{role}.json": MetaFile(known.signed.version) for role, known in self._known().items() if role != ROOT
        }
        snapshot = self._published.latest(SNAPSHOT)
        if again or snapshot is None or snapshot.signed.meta != versions or self._is_due(SNAPSHOT, snapshot, root):
            version = ahead + (snapshot.signed.version + 1 if snapshot else 1)
            made = Snapshot(version, expires=rules.expiry(SNAPSHOT, now), meta=versions)
            snapshot = self._signed_online(SNAPSHOT, made, root)
        timestamp, named = self._published.latest(TIMESTAMP), MetaFile(snapshot.signed.version)
        if (
            again
            or timestamp is None
            or timestamp.signed.snapshot_meta != named
            or self._is_due(TIMESTAMP, timestamp, root)
        ):
            version = ahead + (timestamp.signed.version + 1 if timestamp else 1)
            stamp = Timestamp(version, expires=rules.expiry(TIMESTAMP, now), snapshot_meta=named)
            self._signed_online(TIMESTAMP, stamp, root)
        return True

    def _is_due(self, role: str, known: Metadata[Any], root: Root) -> bool:
        verified = root.get_verification_result(role, known.signed_bytes, known.signatures).verified
        return not verified or rules.due_at(role, known.signed.expires) <= self._clock()

    def _signed_online(self, role: str, signed: Snapshot | Timestamp, root: Root) -> Metadata[Any]:
        signers: list[CryptoSigner] = self.ring.signers(root.keys[keyid] for keyid in root.roles[role].keyids)
        if len(signers) < root.roles[role].threshold:
            raise FailedPrecondition(
                f"the hub's key for {role} is not in {self.ring.folder}: devices will install nothing new; put it back, or make"
                f" another with: milonga keys rotate {role}"
            )
        made: Metadata[Any] = Metadata(signed)
        for signer in signers:
            made.sign(signer, append=True)
        self._published.write(role, made)
        return made

    # Reading.

    def _known(self) -> _Known:
        """Return what is published of root, targets and projects."""
        found = {role: self._published.latest(role) for role in self._published.roles() - set(ONLINE)}
        return {role: each for role, each in found.items() if each is not None}

    def _staged_changes(self) -> _Known:
        found = {role: self._staged.latest(role) for role in self._staged.roles()}
        return {role: each for role, each in found.items() if each is not None}

    def _newest(self, role: str) -> Metadata[Any]:
        found = self._staged.latest(role) or self._published.latest(role)
        if found is None:
            raise NotFound(f"there is no {role} metadata; run: milonga keys init")
        return found

    def _next(self, role: str) -> Metadata[Any]:
        """Return the role's newest metadata as its next version, to be changed and signed."""
        made: Metadata[Any] = Metadata(self._newest(role).signed)
        made.signed.version = self._published.version(role) + 1
        made.signed.expires = rules.expiry(role, self._clock())
        return made

    def _online(self, role: str) -> Any:
        known = self._published.latest(role)
        assert known is not None
        return known.signed

    def _role(self, role: str) -> RoleStatus:
        found = next((each for each in self.status() if each.role == role), None)
        if found is None:
            raise NotFound(f"there is no role {role!r}; see: milonga keys status")
        return found

    def _can_sign(self, role: str) -> bool:
        known = self._role(role)
        return len(known.here) >= known.threshold

    @staticmethod
    def _delegations(targets: Targets) -> set[str]:
        return set((targets.delegations.roles if targets.delegations else None) or {})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one thread of one process change things at a time: `milonga keys` works beside a hub that runs."""
        with self._changing:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)


def _projects(known: _Known, staged: _Known) -> list[str]:
    return sorted({*known, *staged} - {ROOT, TARGETS, *ONLINE})


def _names(known: Metadata[Any], project: str, bundle: str) -> bool:
    return rules.target_of(project, bundle) in known.signed.targets
