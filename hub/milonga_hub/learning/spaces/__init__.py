"""Spaces: families of networks that share weights, and what may vary in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from milonga.plugins import PluginBroken, listed

from milonga_hub.learning.costs import Cost
from milonga_hub.learning.spaces.base import Choice, Dimension, Encoding, Space
from milonga_hub.learning.spaces.densenet import DenseNet
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.spaces.mbv3 import MobileNetV3
from milonga_hub.learning.spaces.resnet import ResNet
from milonga_hub.learning.spaces.yolo import NAMED, Yolo

#: Entry points of this group name a Space for classification.
GROUP = "milonga.spaces"
#: By name, the spaces for classification; those for detection are yolo.NAMED.
SPACES: dict[str, Callable[[int], Space]] = {kind.name: kind for kind in (MobileNetV3, ResNet, DenseNet)}


@lru_cache
def space(name: str, resolution_px: int) -> Space:
    """Return the space of that name for pictures of this size. Raises ValueError naming the known ones, of plug-ins too.

    Networks of those for detection can be built only where ultralytics is installed, else they raise UltralyticsMissing.
    """
    if name in SPACES:
        return SPACES[name](resolution_px)
    if name in NAMED:
        return Yolo(resolution_px, *NAMED[name])
    return plugged(name)(resolution_px)


def rebuilt(settings: Mapping[str, Any]) -> Space:
    """Return the space that has these `settings`. Raises ValueError for one of a name that is not known here."""
    kinds: dict[str, Callable[..., Space]] = {**SPACES, Yolo.name: Yolo}
    name = settings["name"]
    given = {key: value for key, value in settings.items() if key not in ("name", "fixed")}
    family = (kinds[name] if name in kinds else plugged(name))(**given)
    return Fixed(family, settings["fixed"]) if "fixed" in settings else family


def plugged(name: str) -> type[Space]:
    """Return the space of that name that a plug-in brings. Raises ValueError where none does, or it cannot be used."""
    plugins = listed(GROUP, [*SPACES, *NAMED, Yolo.name])
    bringing = [one for one in plugins if one.name == name]
    if not bringing:
        names = [*SPACES, *NAMED, *(one.name for one in plugins if not one.problem)]
        raise ValueError(f"there is no space {name!r}; there are: {', '.join(names)}")
    try:
        kind = bringing[0].load()
    except PluginBroken as error:
        raise ValueError(str(error)) from error
    if not (isinstance(kind, type) and issubclass(kind, Space)):
        raise ValueError(f"{bringing[0].value} of {bringing[0].distribution} is no milonga_hub.learning.spaces.Space")
    if (kind.name, kind.task) != (name, "classification"):
        said = f"{kind.name!r} for {kind.task}"
        raise ValueError(
            f"{bringing[0].value} of {bringing[0].distribution} is {said}, and not {name!r} for classification"
        )
    return kind


__all__ = ["SPACES", "Choice", "Cost", "Dimension", "Encoding", "Space", "plugged", "rebuilt", "space"]
