"""Code of others, found by entry points: what it brings is taken, and what is broken is named and left out."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# A name may stand in a target, in the name of a folder and in that of an environment variable.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class PluginBroken(Exception):
    """Something that a plug-in brings cannot be used; the message names the plug-in and says why."""


@dataclass(frozen=True)
class Plugin:
    """One entry point of an installed distribution; `problem` says why it is left out, and is empty where it is not."""

    group: str
    name: str
    # What it names, as "module:object".
    value: str
    distribution: str
    version: str
    problem: str = ""

    def load(self) -> Any:
        """Return what the entry point names. Raises PluginBroken where it is left out, or cannot be loaded."""
        if self.problem:
            raise PluginBroken(f"{self.group} {self.name} of {self.distribution}: {self.problem}")
        try:
            return named(self.value)
        except PluginBroken as error:
            raise PluginBroken(f"{self.group} {self.name} of {self.distribution}: {error}") from error


@dataclass(frozen=True)
class Found(Generic[T]):
    """What the plug-ins of a group bring, by name, and all of these plug-ins, the broken ones too."""

    values: Mapping[str, T]
    plugins: tuple[Plugin, ...]

    def of(self, name: str) -> Plugin | None:
        """Return the plug-in that brings this name."""
        return next((one for one in self.plugins if one.name == name and not one.problem), None)


def listed(group: str, taken: Collection[str]) -> tuple[Plugin, ...]:
    """Return the group's plug-ins by name. Nothing is loaded; names that are `taken` or bad are left out, and so are twins."""
    seen = list(_installed(group))
    return tuple(sorted((_judged(one, seen, taken) for one in seen), key=lambda one: (one.name, one.distribution)))


def found(group: str, kind: type[T], taken: Collection[str]) -> Found[T]:
    """Return what the group's plug-ins bring, loaded; one that does not load, or brings no `kind`, stops no other."""
    values: dict[str, T] = {}
    plugins = []
    for plugin in listed(group, taken):
        try:
            value = plugin.load()
            if not isinstance(value, kind):
                raise PluginBroken(f"{plugin.value} is no {kind.__module__}.{kind.__qualname__}")
            values[plugin.name] = value
        except PluginBroken as error:
            plugin = plugin if plugin.problem else replace(plugin, problem=_reason(error))
        plugins.append(plugin)
    return Found(values, tuple(plugins))


def named(value: str) -> Any:
    """Return the object that "module:object" names. Raises PluginBroken, whatever goes wrong in the module."""
    module, _, path = value.partition(":")
    try:
        target: Any = importlib.import_module(module.strip())
        for part in path.strip().split("."):
            target = getattr(target, part)
    except (Exception, SystemExit) as error:  # It is the code of others.
        raise PluginBroken(f"{value} cannot be loaded: {type(error).__name__}: {error}") from error
    return target


def _installed(group: str) -> Iterator[Plugin]:
    """Yield the group's entry points; of a distribution that is installed twice, those of the one that is imported."""
    seen = set()
    for distribution in metadata.distributions():
        points = [each for each in distribution.entry_points if each.group == group]
        if not points:
            continue
        name = str(distribution.metadata["Name"])
        if name.lower() not in seen:
            seen.add(name.lower())
            for each in points:
                yield Plugin(group, each.name, each.value.partition("[")[0].strip(), name, distribution.version)


def _judged(plugin: Plugin, all_of_them: Collection[Plugin], taken: Collection[str]) -> Plugin:
    others = [one.distribution for one in all_of_them if one.name == plugin.name and one != plugin]
    problem = ""
    if not _NAME.fullmatch(plugin.name):
        problem = "it needs a name of a-z, 0-9 and _, beginning with a letter"
    elif plugin.name in taken:
        problem = "the name is taken by Milonga's own; it needs another"
    elif others:
        problem = f"{', '.join(others)} brings the same name; uninstall one of them"
    return replace(plugin, problem=problem) if problem else plugin


def _reason(error: PluginBroken) -> str:
    """Return what is wrong without the plug-in's name, which stands beside it."""
    cause = error.__cause__
    return str(cause if isinstance(cause, PluginBroken) else error)
