"""Unpack wheels of the agent and see whether they can work here; a process of its own, so that the daemon stays small.

In (stdin): {"target": FOLDER, "files": {NAME: PATH}}; out (stdout): {"problem": WHY}, empty where all is well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from milonga.ending import die_with_parent

from milonga_agent.files import sync_folder

_SECONDS = 60.0
# Many times what the agent and its protocol have.
_MOST_BYTES = 64 << 20


def unpack(files: dict[str, str], target: Path) -> str:
    """Lay the wheels out in the folder, other files beside them; return why they cannot work here, "" where they can."""
    shutil.rmtree(str(target), ignore_errors=True)
    target.mkdir(parents=True)
    for name, path in files.items():
        if not name.endswith(".whl"):
            shutil.copyfile(path, str(target / Path(name).name))
            continue
        with zipfile.ZipFile(path) as wheel:
            if sum(entry.file_size for entry in wheel.infolist()) > _MOST_BYTES:
                return f"{name} is larger than an agent may be"
            wheel.extractall(str(target))
    for path_, _, names in os.walk(str(target)):
        for file in names:
            with (Path(path_) / file).open("rb") as written:
                os.fsync(written.fileno())
        sync_folder(Path(path_))
    return lacking(target) or _fails(target)


def lacking(folder: Path) -> str:
    """Say what the packages of the folder need and this environment lacks, "" for nothing."""
    # What pip has for itself: the installer's environments have pip, and the agent needs no library for this.
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ImportError:
        return ""  # Then it is tried out all the same.
    ours = {str(each.metadata["Name"]).lower(): each for each in metadata.distributions(path=[str(folder)])}
    for distribution in ours.values():
        for line in distribution.requires or ():
            needed = Requirement(line)
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            found = _version(needed.name, ours)
            if found is None or not needed.specifier.contains(found, prereleases=True):
                have = f"this device has {found}" if found else "this device has none"
                return f"the new agent needs {needed}, and {have}: run the line that installs agents again here"
    return ""


def _version(name: str, ours: dict[str, Any]) -> str | None:
    if name.lower() in ours:
        return str(ours[name.lower()].version)
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fails(folder: Path) -> str:
    """Start it once, as far as that has no effect."""
    done = subprocess.run(
        [sys.executable, "-c", "import milonga_agent.daemon, milonga_agent.cli as cli; cli.main(['--version'])"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=_SECONDS, check=False,
    )  # fmt: skip
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return f"the new agent does not start here: {last}" if done.returncode else ""


def main() -> int:
    """Answer one question."""
    die_with_parent()
    asked = json.load(sys.stdin)
    try:
        problem = unpack(asked["files"], Path(asked["target"]))
    except (OSError, zipfile.BadZipFile, subprocess.TimeoutExpired) as error:
        problem = f"the new agent cannot be unpacked: {error}"
    json.dump({"problem": problem}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
