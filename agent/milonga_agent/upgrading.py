"""Take the hub's agent in this one's place: signed wheels, laid over what the installer made (docs/adr/0042).

The script that starts the agent (docs/install.md) puts the release that is current before the installed packages, and goes back
to the one before where it does not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import sys
from pathlib import Path

from milonga.release import PROJECT, read_release
from milonga.v1 import agent_pb2

from milonga_agent.bundles import Bundles
from milonga_agent.errors import AgentError, Refused, Untrusted
from milonga_agent.files import disk_errors, sync_folder, write_atomically
from milonga_agent.plan import WantedFile, Wish
from milonga_agent.processes import ended_within
from milonga_agent.supervision import RELEASE_MANIFEST, release_in_use, releases_folder

_log = logging.getLogger(__name__)
_SECONDS = 120.0


class Upgrading:
    """Fetches a release and makes it current. `turn` is whose holder may fetch what is not assigned."""

    def __init__(self, bundles: Bundles, turn: asyncio.Lock) -> None:
        self._bundles = bundles
        self._turn = turn

    async def take(self, release: agent_pb2.AgentRelease) -> bool:
        """Make the release that which is started next; False where it runs already. Raises AgentError or OSError."""
        folder = releases_folder()
        if folder is None:
            raise Refused("this agent was not installed by the hub's installer, or by an older one: run its line again")
        wish = wish_of(release)
        manifest = wish.files[-1]
        async with self._turn:
            self._bundles.to_measure = wish
            try:
                return await self._taken(folder, wish, manifest)
            finally:
                self._bundles.to_measure = Wish()
                self._bundles.collect()

    async def _taken(self, folder: Path, wish: Wish, manifest: WantedFile) -> bool:
        depot, running = self._bundles.depot, release_in_use()
        await depot.download(wish.files, self._bundles.courier, lambda fraction: None)
        depot.verify(wish)
        await self._bundles.check_signed(PROJECT, manifest)
        text = depot.blob(manifest.digest).read_bytes()
        if running and _read(folder / running / RELEASE_MANIFEST) == text:
            return False
        number, newest = _number(text), max(_taken_before(folder))
        if number < newest:
            raise Untrusted(f"release {number} of the agent is older than {newest}, which this device has taken")
        slot = "b" if running == "a" else "a"
        await _unpacked([(file.path, depot.blob(file.digest)) for file in wish.files], folder / "new")
        # First the count of its starts: whatever dies here, a release that does not start is not started for ever.
        write_atomically(folder / f"trial-{slot}", b"0\n")
        with disk_errors(folder):
            shutil.rmtree(str(folder / slot), ignore_errors=True)
            (folder / "new").replace(folder / slot)
            _point(folder / "current", slot)
        write_atomically(folder / "number", str(number).encode())
        _log.info("took release %d of the agent from the hub", number)
        return True


def wish_of(release: agent_pb2.AgentRelease) -> Wish:
    """Return what is to be fetched, the manifest last. Raises Refused where the hub names no release."""
    files = [*release.wheels, release.manifest]
    wanted = tuple(WantedFile(file.path, file.digest, file.size_bytes) for file in files)
    if wanted[-1].path != RELEASE_MANIFEST:
        raise Refused("the hub names no release of the agent; upgrade the hub, or ask again")
    return Wish(bundle=wanted[-1].digest, files=wanted, project=PROJECT)


def _number(text: bytes) -> int:
    try:
        return read_release(text).number
    except ValueError as error:
        raise Untrusted(str(error)) from error


def _taken_before(folder: Path) -> list[int]:
    """Return the number of the newest release that was taken here, 0 for none."""
    with contextlib.suppress(OSError, ValueError):
        return [0, int((folder / "number").read_text(encoding="ascii"))]
    return [0]


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


async def _unpacked(files: list[tuple[str, Path]], target: Path) -> None:
    """Unpack and try the release in a process of its own. Raises Refused where this device cannot run it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "milonga_agent.unpacking",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    question = {"target": str(target), "files": {name: str(path) for name, path in files}}
    try:
        out, _ = await ended_within(process, _SECONDS, json.dumps(question).encode())
        problem = str(json.loads(out)["problem"])
    except asyncio.TimeoutError as error:
        raise AgentError(f"the new agent could not be unpacked within {_SECONDS:.0f} s") from error
    except (ValueError, KeyError) as error:
        raise AgentError(f"unpacking the new agent ended with exit code {process.returncode}") from error
    if problem:
        raise Refused(problem)


def _point(link: Path, slot: str) -> None:
    """Let the link lead to the slot from one moment to the next."""
    new = link.with_name("current.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(slot)
    new.replace(link)
    sync_folder(link.parent)
