"""Which interpreter has an engine's packages: this one, one that is configured, or an environment made for the engine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from milonga_compiler.engines import ENGINES, BuildSite, plugged
from milonga_compiler.errors import CompilerError, EngineMissing

_DISTRIBUTION = "milonga-compiler"
_FINISHED = ".finished"


def interpreter(engine: str) -> str:
    """Return the interpreter to run an engine with. Raises EngineMissing with the line that adds the engine.

    MILONGA_ENGINE_NAME_PYTHON names one; else it is this one where it has the packages, else the engine's environment.
    """
    configured = os.environ.get(f"MILONGA_ENGINE_{engine.upper()}_PYTHON")
    if configured:
        if not os.access(configured, os.X_OK):
            raise EngineMissing(f"MILONGA_ENGINE_{engine.upper()}_PYTHON names {configured}, which cannot be run")
        return configured
    if not missing_modules(engine):
        return sys.executable
    made = environment(engine) / "bin" / "python"
    if (environment(engine) / _FINISHED).exists():
        return str(made)
    there = "" if ENGINES[engine].build_site is BuildSite.HUB else "; its builds are made on the device that runs them"
    raise EngineMissing(f"{engine} is not installed here; run: {adding_line(engine)}{there}")


def usable(engine: str) -> bool:
    """Return whether an interpreter with the engine was found."""
    try:
        return bool(interpreter(engine))
    except EngineMissing:
        return False


def usable_engines() -> list[str]:
    """Return the engines that an interpreter was found for."""
    return [name for name in ENGINES if usable(name)]


def buildable_engines() -> list[str]:
    """Return the engines that can be built with: those usable here, and those that each device builds for itself."""
    return [name for name, engine in ENGINES.items() if engine.build_site is BuildSite.DEVICE or usable(name)]


def missing_modules(engine: str) -> list[str]:
    """Return what of the engine's cannot be imported in this interpreter; nothing is imported to find out."""

    def found(name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    return [names for names in ENGINES[engine].modules if not any(map(found, names.split("|")))]


def adding_line(engine: str) -> str:
    """Return the command that makes the engine usable here."""
    if ENGINES[engine].own_environment:
        return f"milonga-compiler engines add {engine}"
    plugin = plugged().of(engine)
    return f"pip install '{plugin.distribution if plugin else _DISTRIBUTION}[{engine}]'"


def environment(engine: str) -> Path:
    """Return where the engine's own environment is, or would be made."""
    return cache_folder() / engine


def cache_folder() -> Path:
    """Return where environments and what engines learn are kept: MILONGA_ENGINES_FOLDER, or in the user's cache."""
    named = os.environ.get("MILONGA_ENGINES_FOLDER")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "milonga" / "engines"


def size_bytes(place: Path) -> int:
    """Return what a folder takes on the disk; what links lead to is not its own."""
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(str(place)) for name in names)


def requirements(engine: str) -> list[str]:
    """Return what pip must install for the engine: its extra in its distribution's metadata, and what all engines need."""
    from packaging.requirements import Requirement

    plugin = plugged().of(engine)
    distributions = [_DISTRIBUTION, *([plugin.distribution] if plugin else [])]
    wanted = [Requirement(line) for each in distributions for line in metadata.requires(each) or []]
    kept = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": engine})]
    # Milonga's own, and the plug-in itself, are lent to the environment.
    return [f"{each.name}{each.specifier}" for each in kept if not each.name.startswith("milonga-")]


def add(engine: str) -> Path:
    """Make the engine's environment, or finish one that was interrupted, and return it. pip tells on stdout.

    Raises CompilerError where pip fails.
    """
    place = environment(engine)
    if (place / _FINISHED).exists():
        return place
    shutil.rmtree(str(place), ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    python = str(place / "bin" / "python")
    alone = ENGINES[engine].without_dependencies
    wanted = [each for each in requirements(engine) if not each.startswith(alone or ("\0",))]
    steps = [[sys.executable, "-m", "venv", str(place)], [python, "-m", "pip", "install", *wanted]]
    if alone:
        steps.append([python, "-m", "pip", "install", "--no-deps", *alone])
    for step in steps:
        if subprocess.run(step).returncode:
            raise CompilerError(f"{engine} could not be added: {' '.join(step)} failed; its reason stands above")
    (place / _FINISHED).touch()
    return place
