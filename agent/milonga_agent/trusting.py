"""Ask whether a bundle may be installed: a short-lived process (trust.py) verifies, the daemon fetches for it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from milonga.waiting import within

from milonga_agent.errors import AgentError, HubUnreachable, Untrusted
from milonga_agent.files import write_atomically
from milonga_agent.processes import next_said

_log = logging.getLogger(__name__)

# Fetches one file of signed metadata by its name, None where there is none. Raises HubUnreachable or Refused.
FetchMetadata = Callable[[str], Awaitable["bytes | None"]]

# Loading python-tuf on a slow board, and some round trips.
_SECONDS = 120.0
# Above every file of metadata that gRPC delivers, in base64.
_LINE_BYTES = 8 << 20


def read_root(path: Path) -> bytes:
    """Return the root metadata that an operator gave. Raises AgentError for a file that is none."""
    try:
        content = path.read_bytes()
        # Whether it is sound is seen by who verifies with it: python-tuf is not loaded here.
        is_root = json.loads(content)["signed"]["_type"] == "root"
    except OSError as error:
        raise AgentError(f"cannot read {path}: {error.strerror}; see --trusted-root") from error
    except (ValueError, KeyError, TypeError):
        is_root = False
    if not is_root:
        raise AgentError(
            f"{path} is no root metadata: give --trusted-root the hub's milonga-data/signing/metadata/1.root.json"
        )
    return content


class Trust:
    """Whom this device trusts: the root metadata that it began with, and what was signed since."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first_root = folder / "first_root.json"
        # Two processes would write into each other's files.
        self._asking = asyncio.Lock()

    def begin(self, root: bytes) -> None:
        """Trust this root metadata from now on, and nothing from before."""
        if self._first_root.exists() and self._first_root.read_bytes() == root:
            return
        shutil.rmtree(str(self._folder), ignore_errors=True)
        write_atomically(self._first_root, root)
        _log.info("builds are trusted by root metadata with digest sha256:%s", hashlib.sha256(root).hexdigest())

    def forget(self) -> None:
        """Trust nobody, until the hub that is joined next says by what root metadata it signs."""
        shutil.rmtree(str(self._folder), ignore_errors=True)

    async def check(self, project: str, manifest_digest: str, size_bytes: int, fetch: FetchMetadata) -> None:
        """Return if the manifest is signed for the project. Raises Untrusted, HubUnreachable or Refused."""
        if not self._first_root.exists():
            root = await fetch("1.root.json")
            if root is None:
                raise Untrusted("the hub does not sign its builds, so none is installed; update the hub")
            self.begin(root)
        question = {
            "folder": str(self._folder),
            "target": f"{project}/{manifest_digest.partition('sha256:')[2]}",
            "digest": manifest_digest,
            "size_bytes": size_bytes,
        }
        try:
            async with self._asking:
                said = await within(_ask(question, fetch), _SECONDS)
        except asyncio.TimeoutError as error:
            raise AgentError(f"the signed metadata could not be verified within {_SECONDS:.0f} s") from error
        if said["is"] == "refused":
            raise Untrusted(f"refused: {said['message']}")
        if said["is"] == "unreachable":
            raise HubUnreachable(str(said["message"]))
        if said["is"] != "trusted":
            raise AgentError(f"the signed metadata could not be verified: {said['message']}")


async def _ask(question: dict[str, Any], fetch: FetchMetadata) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "milonga_agent.trust",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(question).encode() + b"\n")
        while (said := await next_said(process.stdout)) is not None:
            if said["is"] != "fetch":
                return said
            process.stdin.write(json.dumps(await _answer(said["name"], fetch)).encode() + b"\n")
            await process.stdin.drain()
    except ConnectionError as error:
        raise AgentError("the process that verifies signed metadata ended early; see its last lines above") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
    # Killed, most often for want of memory; a line on stderr says if it was something else.
    raise AgentError(f"the process that verifies signed metadata ended with exit code {process.returncode}")


async def _answer(name: str, fetch: FetchMetadata) -> dict[str, Any]:
    try:
        content = await fetch(name)
    except HubUnreachable as error:
        return {"unreachable": str(error)}
    return {"missing": True} if content is None else {"content": base64.b64encode(content).decode()}
