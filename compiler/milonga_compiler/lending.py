"""Lend the engine of a plug-in to the process it runs in, whose environment may not have the plug-in."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from milonga_compiler.engines import ENGINES, Engine, plugged
from milonga_compiler.plugins import PluginBroken, named


def lent(engine: str) -> dict[str, Any] | None:
    """Return what the process must know of the engine's plug-in: the entry point, and where its code lies; None without one."""
    plugin = plugged().of(engine)
    if plugin is None:
        return None
    modules = {value.partition(":")[0].partition(".")[0] for value in (plugin.value, ENGINES[engine].backend)}
    return {"value": plugin.value, "places": {name: place for name in sorted(modules) if (place := _place(name))}}


def take(engine: str, told: dict[str, Any] | None) -> None:
    """Have the engine of the plug-in that is told, and of no other. Raises PluginBroken where it cannot be loaded."""
    if told is None:
        ENGINES.only({})
        return
    for name, place in told["places"].items():
        if importlib.util.find_spec(name) is None:
            _mount(name, place)
    found = named(told["value"])
    if not isinstance(found, Engine):
        raise PluginBroken(f"{told['value']} is no milonga_compiler.engines.Engine")
    ENGINES.only({engine: found})


def _place(name: str) -> str:
    """Return the file that the package or module begins with; empty where it has none."""
    spec = importlib.util.find_spec(name)
    return str(spec.origin) if spec is not None and spec.has_location else ""


def _mount(name: str, place: str) -> None:
    """Import one package from where it lies, and nothing that lies beside it."""
    is_package = place.endswith("__init__.py")
    folders = [place[: -len("/__init__.py")]] if is_package else None
    spec = importlib.util.spec_from_file_location(name, place, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise PluginBroken(f"{place} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
