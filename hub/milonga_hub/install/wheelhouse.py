"""Wheelhouses: everything that an agent needs on one kind of device, for devices that reach the hub and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.install.wheels import SERVED, wheel_of

OLDEST_PYTHON = (3, 9)
# The newest glibc that a wheel may ask for: 2.31 is Debian 11's and JetPack 5's.
_NEWEST_GLIBC_MINOR = 31
# The oldest for which any wheel of these platforms is built.
_OLDEST_GLIBC_MINOR = {"x86_64": 5, "aarch64": 17}
_LEGACY = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}
# More passes than any chain of conditional dependencies is long; then something turns in a circle.
_MOST_PASSES = 5


class Platform(StrEnum):
    """Processors that agents are installed on, as `uname -m` names them."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


@dataclass(frozen=True)
class Kind:
    """For whom a wheelhouse is: a processor and a Python such as "3.11"."""

    platform: Platform
    python: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"3\.[0-9]{1,2}", self.python) or self.version < OLDEST_PYTHON:
            raise InvalidInput(
                f"{self.python!r} is not a Python that the agent runs on; give the device's, for example 3.11"
                " (python3 --version tells), at least 3.9"
            )

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.python.split(".")
        return int(major), int(minor)

    @property
    def markers(self) -> dict[str, str]:
        """Return what conditions of dependencies are judged by (PEP 508); pip would judge by this machine."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "platform_machine": self.platform.value,
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }

    @property
    def pip_options(self) -> list[str]:
        minors = range(_NEWEST_GLIBC_MINOR, _OLDEST_GLIBC_MINOR[self.platform] - 1, -1)
        names = [f"manylinux_2_{minor}" for minor in minors] + [*_LEGACY[self.platform], "linux"]
        platforms = [f"--platform={name}_{self.platform}" for name in names]
        return [*platforms, f"--python-version={self.python}", "--implementation=cp", "--only-binary=:all:"]


class Wheelhouses:
    """The wheelhouses of one hub, each a folder of wheels in its data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder_of(self, kind: Kind) -> Path:
        return self._folder / f"{kind.platform}-{kind.python}"

    def wheels(self, kind: Kind) -> list[Path]:
        """Return the wheels for this kind of device; none where no wheelhouse was prepared."""
        return sorted(self.folder_of(kind).glob("*.whl"))

    def prepare(self, kind: Kind, engines: Sequence[str], tell: Callable[[str], None]) -> Path:
        """Download all that an agent with these engines needs, and put it in place of what was there.

        `tell` hears a line for each step of pip's. Raises FailedPrecondition where a wheel does not exist.
        """
        check_engines(engines)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".preparing-") as made:
            wheels = Path(made) / "wheels"
            _download(kind, engines, wheels, Path(made), tell)
            target, old = self.folder_of(kind), Path(made) / "old"
            if target.exists():
                target.rename(old)
            wheels.rename(target)
        return target


def known_engines() -> list[str]:
    """Return the engines that an agent can be installed with: its extras, but for the one that compiles."""
    extras = metadata.metadata("milonga-agent").get_all("Provides-Extra") or []
    return sorted(set(extras) - {"compile"})


def check_engines(engines: Sequence[str]) -> None:
    """Raise InvalidInput for an engine that the agent does not know."""
    unknown = sorted(set(engines) - set(known_engines()))
    if unknown:
        raise InvalidInput(f"there is no engine {unknown[0]!r}; choose among: {', '.join(known_engines())}")


def _download(kind: Kind, engines: Sequence[str], wheels: Path, scratch: Path, tell: Callable[[str], None]) -> None:
    ours = []
    for distribution in SERVED:
        wheel = wheel_of(distribution)
        path = scratch / wheel.file_name
        path.write_bytes(wheel.content)
        ours.append(f"{path}[{','.join(engines)}]" if engines and distribution == "milonga-agent" else str(path))
    further: set[str] = set()
    for _ in range(_MOST_PASSES):
        _pip_download([*ours, *sorted(further)], kind, wheels, tell)
        missing = set(unmet(wheels, kind, engines)) - further
        if not missing:
            break
        further |= missing
    else:
        raise FailedPrecondition(f"the dependencies of {', '.join(engines)} do not come to an end; please report it")
    # The hub serves its own two from /simple/, always as they are now.
    for path in wheels.glob("milonga_*.whl"):
        path.unlink()


def _pip_download(wanted: Sequence[str], kind: Kind, wheels: Path, tell: Callable[[str], None]) -> None:
    shutil.rmtree(wheels, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--progress-bar=off"]
    command += [f"--dest={wheels}", *kind.pip_options, *wanted]
    errors = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if line.startswith("ERROR:"):
                errors.append(line.removeprefix("ERROR:").strip())
            elif line.startswith(("Collecting ", "Saved ")):
                tell(line.split(" (from ")[0].strip())
    if pip.returncode:
        why = "; ".join(errors) or f"pip ended with exit code {pip.returncode}"
        raise FailedPrecondition(
            f"no wheelhouse for {kind.platform} with Python {kind.python}: {why}; choose other engines or another Python"
        )


def unmet(wheels: Path, kind: Kind, engines: Sequence[str]) -> Iterator[str]:
    """Yield requirements of the wheels that hold on the device and that no wheel meets.

    pip download judges conditions such as `python_version < "3.10"` by the Python that it runs on.
    """
    names = {canonicalize_name(path.name.split("-")[0]) for path in wheels.glob("*.whl")}
    for path in sorted(wheels.glob("*.whl")):
        extras = ["", *engines] if path.name.startswith("milonga_agent-") else [""]
        for line in _requirements(path):
            wanted = Requirement(line)
            holds = wanted.marker is None or any(
                wanted.marker.evaluate({**kind.markers, "extra": extra}) for extra in extras
            )
            if holds and canonicalize_name(wanted.name) not in names:
                yield f"{wanted.name}{wanted.specifier}"


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(
            name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")
        )
        return message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []
