"""Apply a delta in a process of its own: `python -m milonga_agent.patching DELTA BASE TARGET DIGEST`.

The daemon stays small: numpy, zstandard and lzma are loaded here alone. A wrong delta costs nothing but time.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import IO

from milonga.ending import die_with_parent

from milonga_agent.errors import AgentError
from milonga_agent.processes import ended_within

# Of a slow board for the largest of files.
_SECONDS = 600.0
# milonga.deltas.FORMAT; that module needs what the daemon does not load.
FORMAT = 1


def formats() -> tuple[int, ...]:
    """Return the formats of deltas that this device can apply."""
    return (FORMAT,) if all(importlib.util.find_spec(name) for name in ("lzma", "numpy", "zstandard")) else ()


async def patch(delta: Path, base: Path, target: Path, digest: str) -> None:
    """Write what the delta makes of the base. Raises AgentError where that does not have the digest."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "milonga_agent.patching", str(delta), str(base), str(target), digest,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await ended_within(process, _SECONDS)
    except asyncio.TimeoutError as error:
        raise AgentError(f"the delta was not applied within {_SECONDS:.0f} s") from error
    if process.returncode:
        last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise AgentError(f"the delta could not be applied: {''.join(last) or f'exit code {process.returncode}'}")


class _Hashing:
    """A file that knows the digest of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)


def main() -> int:
    die_with_parent()
    delta, base, target = map(Path, sys.argv[1:4])
    # Serving comes first.
    os.nice(10)
    from milonga.deltas import DeltaInvalid, apply

    try:
        with target.open("wb") as file:
            out = _Hashing(file)
            apply(delta, base, out)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
    except (DeltaInvalid, OSError, MemoryError) as error:
        print(str(error) or repr(error), file=sys.stderr)
        return 1
    if f"sha256:{out.digest.hexdigest()}" != sys.argv[4]:
        print("it makes another file than the one that was wanted", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
