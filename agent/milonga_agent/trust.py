"""Verify with TUF that a bundle may be installed, in a process of its own: the daemon stays small.

Up (stdout): {"is": "fetch", "name": FILE}, then {"is": "trusted"} or {"is": "refused" | "unreachable" | "failed", "message": WHY}.
Down (stdin): the question first, then for each fetch {"content": BASE64} or {"missing": true} or {"unreachable": WHY}.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milonga.ending import die_with_parent
from tuf.api import exceptions
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from milonga_agent.errors import AgentError, Untrusted
from milonga_agent.files import sync_folder, write_atomically

_NOT_FOUND = 404


class Client:
    """What python-tuf's client does, with a clock that never goes back, and files that survive a power cut."""

    def __init__(
        self,
        folder: Path,
        root: bytes,
        fetcher: FetcherInterface,
        url: str = "hub:",
        now: datetime.datetime | None = None,
    ) -> None:
        """`root` is the metadata that all trust begins with. Raises Untrusted for what is none."""
        self._folder = folder
        self._now = now or datetime.datetime.now(datetime.timezone.utc)
        folder.mkdir(parents=True, exist_ok=True)
        config = UpdaterConfig(prefix_targets_with_hash=True)
        try:
            self.updater = Updater(str(folder), url, fetcher=fetcher, config=config, bootstrap=root)
        except exceptions.RepositoryError as error:
            raise Untrusted(f"the first root metadata cannot be used: {error}") from error
        # A clock that was reset must not bring back to life what had expired when it was right.
        self.updater._trusted_set.reference_time = max(self._now, self._latest_time())

    def refresh(self) -> None:
        """Bring root, timestamp, snapshot and targets up to date. Raises Untrusted or DownloadError."""
        with self._reading():
            self.updater.refresh()
        if self._now > self._latest_time():
            # Only what had not expired came so far, so that no clock ahead of its time is kept.
            write_atomically(self._clock, self._now.isoformat().encode())

    def target(self, path: str) -> TargetFile:
        """Return what is signed of a target. Raises Untrusted or DownloadError."""
        with self._reading():
            found = self.updater.get_targetinfo(path)
        if found is None:
            raise Untrusted(f"nobody whom this device trusts has signed {path}")
        return found

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say in plain words why metadata is refused, and make what was written last, refused or not."""
        try:
            yield
        except (exceptions.DownloadHTTPError, exceptions.DownloadLengthMismatchError) as error:
            raise Untrusted(f"the signed metadata is incomplete, or larger than it may be: {error}") from error
        except exceptions.RepositoryError as error:
            raise Untrusted(self._words(error)) from error
        finally:
            self._sync()

    @property
    def _clock(self) -> Path:
        return self._folder / "verified_at"

    def _latest_time(self) -> datetime.datetime:
        """Return the newest time at which metadata was found good: the real time was never earlier since."""
        try:
            return datetime.datetime.fromisoformat(self._clock.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)

    def _words(self, error: exceptions.RepositoryError) -> str:
        if isinstance(error, exceptions.ExpiredMetadataError):
            return f"the signed metadata has expired ({error}); this device's clock says {self._now:%Y-%m-%d %H:%M} UTC"
        if isinstance(error, exceptions.BadVersionNumberError):
            return f"the signed metadata is older than, or not of one piece with, what was signed before: {error}"
        if isinstance(error, exceptions.UnsignedMetadataError):
            return f"too few trusted keys have signed the metadata: {error}"
        return f"the signed metadata is not good: {error}"

    def _sync(self) -> None:
        """Make what python-tuf wrote last."""
        for path in self._folder.glob("**/*.json"):
            if not path.is_symlink():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(self._folder)


class _Asking(FetcherInterface):
    """Fetches by asking the daemon, which holds the connection to the hub."""

    def __init__(self, lines: Iterator[str], out: Any) -> None:
        self._lines, self._out = lines, out

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        _say(self._out, {"is": "fetch", "name": name})
        answer = json.loads(next(self._lines))
        if "unreachable" in answer:
            raise exceptions.DownloadError(str(answer["unreachable"]))
        if answer.get("missing"):
            raise exceptions.DownloadHTTPError(f"the hub has no {name}", _NOT_FOUND)
        return iter([base64.b64decode(answer["content"])])


def verify(
    folder: Path,
    target: str,
    digest: str,
    size_bytes: int,
    fetcher: FetcherInterface,
    now: datetime.datetime | None = None,
) -> None:
    """Return if a manifest of this digest and size is signed as this target. Raises Untrusted or DownloadError."""
    client = Client(folder / "metadata", (folder / "first_root.json").read_bytes(), fetcher, now=now)
    client.refresh()
    signed = client.target(target)
    if signed.hashes.get("sha256") != digest.partition("sha256:")[2] or signed.length != size_bytes:
        raise Untrusted(f"{target} was signed with another digest or size")


def main() -> int:
    """Answer one question."""
    die_with_parent()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines = iter(sys.stdin)
    asked = json.loads(next(lines))
    fetcher = _Asking(lines, out)
    try:
        verify(Path(asked["folder"]), asked["target"], asked["digest"], asked["size_bytes"], fetcher)
    except Untrusted as error:
        _say(out, {"is": "refused", "message": str(error)})
    except exceptions.DownloadError as error:
        _say(out, {"is": "unreachable", "message": str(error)})
    except (AgentError, OSError) as error:
        # A full disk, most often.
        _say(out, {"is": "failed", "message": str(error)})
    else:
        _say(out, {"is": "trusted"})
    return 0


def _say(out: Any, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=out, flush=True)


if __name__ == "__main__":
    sys.exit(main())
