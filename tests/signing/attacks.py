"""What an attacker between a hub and a device, or with one of the hub's keys, could serve in place of signed metadata."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from milonga_hub.db import utc_now
from milonga_hub.errors import NotFound
from milonga_hub.signing import keys
from milonga_hub.signing.service import SigningService
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.api.metadata import Metadata, MetaFile, TargetFile
from tuf.ngclient.fetcher import FetcherInterface

# Returns a file of metadata by its name. Raises NotFound.
Serve = Callable[[str], bytes]


@dataclass(frozen=True)
class Victim:
    """A hub, the project that is attacked, and the bundle that the attacker wants installed: digest and size."""

    signing: SigningService
    project: str
    bundle: str
    size_bytes: int

    @property
    def role(self) -> str:
        return f"project-{self.project}"

    def newest(self, role: str) -> tuple[int, dict[str, Any]]:
        """Return version and content of a role's newest metadata."""
        folder = self.signing.folder / "metadata"
        paths = [folder / "timestamp.json"] if role == "timestamp" else sorted(folder.glob(f"*.{role}.json"))
        newest = json.loads(
            max(paths, key=lambda path: int(path.name.split(".")[0]) if role != "timestamp" else 0).read_bytes()
        )
        return int(newest["signed"]["version"]), newest

    def with_bundle(self, role: str = "") -> tuple[int, dict[str, Any]]:
        """Return a role's metadata with the attacker's bundle in it, and the old signatures."""
        if not role:
            # A new version, which the device has not seen either.
            self.signing.sign(self.project, {"sha256:" + "c" * 64: 1})
        version, content = self.newest(role or self.role)
        name = f"{self.project}/{self.bundle.removeprefix('sha256:')}"
        content["signed"]["targets"][name] = TargetFile(
            self.size_bytes, {"sha256": name.rpartition("/")[2]}, name
        ).to_dict()
        return version, content


def _over(victim: Victim, changed: Mapping[str, bytes]) -> Serve:
    return lambda name: changed[name] if name in changed else victim.signing.metadata(name)


def unsigned(victim: Victim) -> Serve:
    """The bundle is assigned, and nobody signed it."""
    return victim.signing.metadata


def without_signatures(victim: Victim) -> Serve:
    version, content = victim.with_bundle()
    return _over(victim, {f"{version}.{victim.role}.json": json.dumps({**content, "signatures": []}).encode()})


def altered(victim: Victim) -> Serve:
    """The signatures are those of what was there before."""
    version, content = victim.with_bundle()
    return _over(victim, {f"{version}.{victim.role}.json": json.dumps(content).encode()})


def wrongly_signed(victim: Victim) -> Serve:
    """Signed by a key of the attacker, which claims the id of the right one."""
    version, content = victim.with_bundle()
    right = content["signatures"][0]["keyid"]
    metadata: Metadata[Any] = Metadata.from_dict(copy.deepcopy(content))
    signature = metadata.sign(CryptoSigner.generate_ed25519())
    content["signatures"] = [{"keyid": right, "sig": signature.signature}]
    return _over(victim, {f"{version}.{victim.role}.json": json.dumps(content).encode()})


def other_project(victim: Victim) -> Serve:
    """The keys of another project sign a bundle for this one."""
    signing = victim.signing
    signing.sign("other", {"sha256:" + "e" * 64: 1})
    version, content = victim.newest("project-other")
    name = f"{victim.project}/{victim.bundle.removeprefix('sha256:')}"
    content["signed"]["targets"][name] = TargetFile(victim.size_bytes, {"sha256": name[-64:]}, name).to_dict()
    return _over(victim, {f"{version}.project-other.json": _signed(content, victim, "project-other")})


def expired(victim: Victim) -> Serve:
    """All of the metadata is that of a hub whose clock stands, a year and more ago; the bundle is signed in it."""
    signing = SigningService(victim.signing.folder, lambda: utc_now() - timedelta(days=400))
    for role in ("timestamp", "snapshot"):
        signing.renew(role)
    victim.signing.sign(victim.project, {victim.bundle: victim.size_bytes})
    signing.renew("timestamp")
    return Snapshot(victim.signing.folder / "metadata")


def stolen_online_keys(victim: Victim) -> Serve:
    """Whoever has the keys of timestamp and snapshot can name files of his own, but not sign them."""
    version, content = victim.with_bundle()
    content["signed"]["version"] = version + 1
    changed = {f"{version + 1}.{victim.role}.json": json.dumps(content).encode()}
    number, snapshot = victim.newest("snapshot")
    snapshot["signed"]["version"] = number + 1
    snapshot["signed"]["meta"][f"{victim.role}.json"] = MetaFile(version + 1).to_dict()
    changed[f"{number + 1}.snapshot.json"] = _signed(snapshot, victim, "snapshot")
    _, timestamp = victim.newest("timestamp")
    timestamp["signed"]["version"] += 1
    timestamp["signed"]["meta"]["snapshot.json"] = MetaFile(number + 1).to_dict()
    changed["timestamp.json"] = _signed(timestamp, victim, "timestamp")
    return _over(victim, changed)


def mixed(victim: Victim) -> Serve:
    """The bundle's signature is real, and was taken from another state of the repository than the snapshot names."""
    role, before = victim.role, victim.newest(victim.role)
    victim.signing.sign(victim.project, {victim.bundle: victim.size_bytes})
    after, _ = victim.newest(role)
    assert after == before[0] + 1
    snapshot, _ = victim.newest("snapshot")
    return _over(victim, {f"{snapshot}.snapshot.json": victim.signing.metadata(f"{snapshot - 1}.snapshot.json")})


def endless(victim: Victim) -> Serve:
    """A file that fills the device's memory and disk."""
    return _over(victim, {"timestamp.json": b" " * 1_000_000})


class Snapshot:
    """The metadata as it is now, whatever is signed later."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.name: path.read_bytes() for path in folder.glob("*.json")}

    def __call__(self, name: str) -> bytes:
        if name not in self._files:
            raise NotFound(name)
        return self._files[name]


def _signed(content: dict[str, Any], victim: Victim, role: str) -> bytes:
    """Sign with the hub's own key of a role."""
    status = next(each for each in victim.signing.status() if each.role == role)
    metadata: Metadata[Any] = Metadata.from_dict({**content, "signatures": []})
    metadata.sign(keys.read_private(victim.signing.ring.folder / f"{keys.short(status.here[0])}.pem"))
    return metadata.to_bytes()


# Each with what the device says of it.
ATTACKS: Mapping[Callable[[Victim], Serve], str] = {
    unsigned: "nobody whom this device trusts has signed",
    without_signatures: "too few trusted keys have signed",
    altered: "too few trusted keys have signed",
    wrongly_signed: "too few trusted keys have signed",
    other_project: "nobody whom this device trusts has signed",
    endless: "larger than it may be",
    mixed: "older than, or not of one piece with",
    stolen_online_keys: "too few trusted keys have signed",
    expired: "the signed metadata has expired",
}


class Fetcher(FetcherInterface):
    """Fetches for python-tuf what a test serves; None stands for a hub that is away."""

    def __init__(self, serve: Serve | None) -> None:
        self._serve = serve

    def _fetch(self, url: str) -> Iterator[bytes]:
        if self._serve is None:
            raise DownloadError("no hub answers")
        try:
            return iter([self._serve(url.rpartition(":")[2].lstrip("/"))])
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error
