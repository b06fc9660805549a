"""Do the steps of an assignment. Each is safe to repeat, and leaves nothing half-made where it would be used."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from milonga_agent.downloads import Line
from milonga_agent.errors import BadBundle
from milonga_agent.fetching import Fetching, Moved
from milonga_agent.files import digest_of_file, disk_errors, sync_folder
from milonga_agent.plan import WantedFile, Wish


class Depot:
    """Blobs and bundles of one agent: cache/ by digest, bundles/ unpacked, ready to be loaded."""

    def __init__(self, folder: Path) -> None:
        # By digest, and with a suffix what is not yet whole.
        self.blobs = folder / "cache"
        self._bundles = folder / "bundles"
        for path in (self.blobs, self._bundles):
            path.mkdir(parents=True, exist_ok=True)
        self._fetching = Fetching(self.blob)

    def bundle(self, digest: str) -> Path:
        """Return the folder of an installed bundle."""
        return self._bundles / _hex(digest)

    def blob(self, digest: str) -> Path:
        """Return where a blob lies once it has been fetched."""
        return self.blobs / _hex(digest)

    async def download(
        self, files: tuple[WantedFile, ...], line: Line, tell: Callable[[float], None], held: Sequence[str] = ()
    ) -> Moved:
        """Fetch what is missing, from where an earlier attempt stopped. Raises DiskFull, or whatever the line raises.

        `held` are the bundles that lie here whole: a delta may begin from any of their files.
        """
        total = max(1, sum(file.size_bytes for file in files))
        done = 0
        for file in files:
            before = done
            if not self.blob(file.digest).exists():
                await self._fetching.fetch(
                    file,
                    line,
                    held,
                    lambda size, before=before: tell((before + size) / total),  # type: ignore[misc]
                )
            done += file.size_bytes
            tell(done / total)
        return self._fetching.take_moved(files)

    def verify(self, wish: Wish) -> None:
        """Check every file against its digest. Raises BadBundle, after removing what is wrong, naming it."""
        for file in wish.files:
            blob = self.blob(file.digest)
            if not blob.exists() or digest_of_file(blob) != file.digest:
                blob.unlink(missing_ok=True)
                raise BadBundle(
                    f"{file.path} does not have the digest {file.digest[:19]}...; it was damaged on the way"
                )
        if not wish.bundle:
            return
        by_path = {file.path: file for file in wish.files}
        manifest = by_path.get("manifest.json")
        if manifest is None or manifest.digest != wish.bundle:
            raise BadBundle("the manifest is not the one that was assigned")
        listed = {entry["path"]: entry["digest"] for entry in self._manifest(wish)["files"]}
        for path, digest in listed.items():
            if path not in by_path or by_path[path].digest != digest:
                raise BadBundle(f"{path} is not the file that the manifest names")
        # Only the manifest is signed: what it does not name is nobody's word.
        if unnamed := set(by_path) - set(listed) - {"manifest.json"}:
            raise BadBundle(f"the manifest does not name {min(unnamed)}")

    def project(self, wish: Wish) -> str:
        """Return the project that a downloaded bundle says it is for. Raises BadBundle where another was assigned."""
        named = str(self._manifest(wish).get("project", ""))
        if wish.project not in ("", named):
            raise BadBundle(f"the bundle is for the project {named!r}, and was assigned for {wish.project!r}")
        return named

    def _manifest(self, wish: Wish) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = json.loads(self.blob(wish.bundle).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadBundle(f"the manifest cannot be read: {error}") from error
        return manifest

    def install(self, wish: Wish) -> Path:
        """Lay the files out as a bundle and return its folder, which appears whole or not at all."""
        place = self.bundle(wish.bundle)
        if place.exists():
            return place
        temporary = self._bundles / f".{_hex(wish.bundle)}.tmp"
        shutil.rmtree(str(temporary), ignore_errors=True)
        with disk_errors(place):
            for file in wish.files:
                target = temporary / _inside(file.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(self.blob(file.digest), target)
            # The names inside must last before the folder has its own.
            for folder in {temporary, *(path for path in temporary.rglob("*") if path.is_dir())}:
                sync_folder(folder)
            temporary.replace(place)
            sync_folder(self._bundles)
        return place

    def model(self, wish: Wish) -> Path:
        """Return the model's file: what the manifest names, laid out beside what belongs to it, or the only file."""
        if not wish.bundle:
            return self.blob(wish.files[0].digest)
        folder = self.install(wish)
        manifest = self._manifest(wish)
        return folder / _inside(str(manifest["model_file"]))

    def collect(self, kept: list[Wish]) -> None:
        """Remove everything that none of these wishes needs."""
        bundles = {_hex(wish.bundle) for wish in kept if wish.bundle}
        blobs = {_hex(file.digest) for wish in kept for file in wish.files}
        for path in self._bundles.iterdir():
            if path.name not in bundles:
                self._remove(path)
        for path in self.blobs.iterdir():
            if path.name.partition(".")[0] not in blobs:
                path.unlink()

    def _remove(self, bundle: Path) -> None:
        """Remove a bundle, which goes whole or not at all: half of one must never be taken for it."""
        gone = self._bundles / ".gone"
        if bundle != gone:
            shutil.rmtree(str(gone), ignore_errors=True)
            bundle.replace(gone)
            sync_folder(self._bundles)
        shutil.rmtree(str(gone), ignore_errors=True)


def _link(blob: Path, target: Path) -> None:
    """Give the blob a second name; copy it where the file system cannot."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(str(blob), str(target))
        except PermissionError:
            shutil.copyfile(str(blob), str(target))


def _inside(path: str) -> str:
    parts = Path(path)
    if parts.is_absolute() or ".." in parts.parts or path in ("", "."):
        raise BadBundle(f"{path!r} is not a path inside a bundle")
    return path


def _hex(digest: str) -> str:
    name = digest.partition("sha256:")[2]
    if len(name) != 64 or any(letter not in "0123456789abcdef" for letter in name):
        raise BadBundle(f"{digest!r} is not a digest")
    return name
