"""Engines that plug-ins bring to this device. What describes one is light; its runtime is imported only where a model runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from milonga.plugins import Found, found

# Entry points of this group name an Engine.
GROUP = "milonga.runtimes"


@dataclass(frozen=True)
class Engine:
    """What an engine is on a device, as the hub is told.

    `distribution` is the package whose version is the engine's ("a|b": either), `runtime` the Runtime as "module:Class".
    """

    distribution: str
    precisions: tuple[str, ...]
    runtime: str


@cache
def plugged(taken: tuple[str, ...]) -> Found[Engine]:
    """Return the engines that plug-ins bring, and what is wrong with those that bring none."""
    return found(GROUP, Engine, taken)
