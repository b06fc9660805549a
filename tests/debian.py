"""A user-space of Debian's packages in a folder: fetched by an apt that knows nothing of this machine, unpacked, never configured."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


class CannotBeMade(RuntimeError):
    """A tool or a package is missing; the message says what to do."""


def unpacked(folder: Path, architecture: str, packages: Sequence[str], tell: Callable[[str], None]) -> Path:
    """Return folder/root with the packages and all that they need, made anew. Needs no root. Raises CannotBeMade."""
    archives = _downloaded(folder, architecture, packages, tell)
    tell(f"unpacking {len(archives)} packages")
    system = folder / "root"
    shutil.rmtree(system, ignore_errors=True)
    for archive in archives:
        done(["dpkg", "-x", str(archive), str(system)], f"unpacking {archive.name}")
    return system


def done(command: Sequence[str], what: str, environment: dict[str, str] | None = None) -> None:
    """Run the command. Raises CannotBeMade with the end of what it printed where it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode:
        raise CannotBeMade(f"{what} failed:\n{_end(ended.stdout + ended.stderr)}")


def _downloaded(folder: Path, architecture: str, packages: Sequence[str], tell: Callable[[str], None]) -> list[Path]:
    apt = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial", "state"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    places = {
        "Dir::State": "state",
        "Dir::State::lists": "lists",
        "Dir::State::status": "status",
        "Dir::Cache": "cache",
    }
    lines = [f'{key} "{apt / name}";' for key, name in places.items()]
    lines += [f'APT::Architecture "{architecture}";', f'APT::Architectures {{"{architecture}";}};']
    # The folders are ours alone; apt would want root for its locks.
    lines += ['APT::Install-Recommends "false";', 'Debug::NoLocking "1";', 'APT::Sandbox::User "";']
    (apt / "apt.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C"}
    tell(f"fetching Debian's list of packages for {architecture}")
    done(["apt-get", "-q", "update"], "apt-get update (are the sources of this machine Debian's?)", environment)
    tell(f"fetching {', '.join(packages)} and what they need")
    done(["apt-get", "-q", "-y", "--download-only", "install", *packages], "apt-get install", environment)
    return sorted((apt / "cache" / "archives").glob("*.deb"))


def _end(text: str) -> str:
    return "\n".join(_lines(text))


def _lines(text: str) -> Iterator[str]:
    yield from text.strip().splitlines()[-8:]
