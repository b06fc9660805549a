"""An aarch64 user-space made of Debian's packages and of wheels, run on this machine by qemu's user-mode emulation.

Nothing of it needs root, and nothing outside its folder is changed: apt keeps lists and archives there, packages are unpacked
and never configured. Emulated times mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from tests.debian import CannotBeMade, done, unpacked

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".aarch64"
# Packages of Debian that bring the tools, by the tool that is looked for.
TOOLS = {"qemu-aarch64-static": "qemu-user-static", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu"}
_PACKAGES = ("python3", "libstdc++6")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
# The processor of a Raspberry Pi 4.
_CPU = "cortex-a72"
# ONNX Runtime 1.28 and later read their processor from here, and crash where they find an x86.
_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


@dataclass(frozen=True)
class Userland:
    """A finished user-space."""

    folder: Path

    @property
    def python(self) -> Path:
        """Return what starts its Python; children that it starts as `sys.executable` are emulated as well."""
        return self.folder / "python"

    def run(self, arguments: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        """Run its Python with the agent's packages and the sources of this repository."""
        command = [str(self.python), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def make(tell: Callable[[str], None]) -> Userland:
    """Return the user-space, made now or before; what is finished is never made twice. Raises CannotBeMade."""
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    if missing:
        raise CannotBeMade(f"{' and '.join(missing)} must be installed first; run: apt-get install {' '.join(missing)}")
    wanted = _requirements()
    recipe = json.dumps([wanted, _PACKAGES, _CPU, _CPUINFO, Path(__file__).read_text(encoding="utf-8")])
    stamp, digest = FOLDER / "finished", hashlib.sha256(recipe.encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        tell(f"{FOLDER.name}/ is made already")
        return Userland(FOLDER)
    stamp.unlink(missing_ok=True)
    FOLDER.mkdir(exist_ok=True)
    system = unpacked(FOLDER, "arm64", _PACKAGES, tell)
    (system / "proc").mkdir(exist_ok=True)
    (system / "proc" / "cpuinfo").write_text(_CPUINFO, encoding="utf-8")
    interpreter = _interpreter(system)
    _install(wanted, interpreter.name.removeprefix("python"), tell)
    _write_starter(system, interpreter)
    stamp.write_text(digest, encoding="utf-8")
    return Userland(FOLDER)


def _requirements() -> list[str]:
    """Return what the agent needs on a device with ONNX Runtime and TVM, as its own package says."""
    described = tomllib.loads((ROOT / "agent" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = described["optional-dependencies"]
    lines = [*described["dependencies"], *extras["onnxruntime"], *extras["tvm"]]
    wanted = [Requirement(line) for line in lines]
    kept = [
        one for one in wanted if not one.name.startswith("milonga") and (one.marker is None or one.marker.evaluate())
    ]
    return sorted(f"{one.name}{one.specifier}" for one in kept)


def _interpreter(system: Path) -> Path:
    found = sorted(path for path in (system / "usr" / "bin").glob("python3.*") if path.name.count(".") == 1)
    if not found:
        raise CannotBeMade(f"Debian's python3 brought no interpreter into {system / 'usr' / 'bin'}")
    return found[0]


def _install(wanted: Sequence[str], version: str, tell: Callable[[str], None]) -> None:
    tell(f"fetching wheels for aarch64 and Python {version}: {', '.join(wanted)}")
    site = FOLDER / "site"
    shutil.rmtree(site, ignore_errors=True)
    platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, *platforms]
    done([*command, "--target", str(site), *wanted], "pip install for aarch64")


def _write_starter(system: Path, interpreter: Path) -> None:
    """Write the script that starts the emulated Python, under its own name: that is what `sys.executable` becomes."""
    starter = FOLDER / "python"
    paths = [FOLDER / "site", ROOT / "protos", ROOT / "agent"]
    lines = [
        "#!/bin/sh",
        f"export PYTHONHOME={system}/usr PYTHONPATH={':'.join(map(str, paths))}",
        "export PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1",
        f'exec qemu-aarch64-static -cpu {_CPU} -L {system} -0 "$0" {interpreter} "$@"',
    ]
    starter.write_text("\n".join(lines) + "\n", encoding="utf-8")
    starter.chmod(0o755)
    said = Userland(FOLDER).run(["-c", "import platform; print(platform.machine())"], 60)
    if said.stdout.strip() != "aarch64":
        raise CannotBeMade(f"the emulated Python does not start: {said.stdout}{said.stderr}")
