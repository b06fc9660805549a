"""`make test-container`: make what stands for the image that Containerfiles begin from, once, then follow them. Exit code as pytest's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.debian import CannotBeMade, unpacked

FOLDER = Path(__file__).parent.parent.parent / ".containers"
# As python:3.11-slim has them: Python with pip, a shell, certificates, and little else.
_PACKAGES = ("python3", "python3-pip", "dash", "coreutils", "ca-certificates", "libstdc++6")


def main() -> int:
    began = time.monotonic()

    def tell(words: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {words}", flush=True)

    if os.geteuid() != 0:
        print("error: changing the root folder needs root; run: sudo make test-container", file=sys.stderr)
        return 2
    try:
        system = _made(tell)
    except CannotBeMade as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tell("following Containerfiles there; pip installs each engine anew")
    environment = {**os.environ, "MILONGA_CONTAINER_ROOT": str(system)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", str(Path(__file__).parent), *sys.argv[1:]], env=environment
    ).returncode


def _made(tell: Callable[[str], None]) -> Path:
    """Return the user-space, made now or before; what is finished is never made twice."""
    stamp = FOLDER / "finished"
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == digest):
        stamp.unlink(missing_ok=True)
        FOLDER.mkdir(exist_ok=True)
        system = unpacked(FOLDER, _architecture(), _PACKAGES, tell)
        # It says that only apt may install. The image's Python is not apt's.
        for marker in system.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        stamp.write_text(digest, encoding="utf-8")
    return FOLDER / "root"


def _architecture() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
