"""Spaces: families of networks that share weights, and what may vary in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from milonga_hub.learning.costs import Cost
from milonga_hub.learning.spaces.base import Choice, Dimension, Encoding, Space
from milonga_hub.learning.spaces.densenet import DenseNet
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.spaces.mbv3 import MobileNetV3
from milonga_hub.learning.spaces.resnet import ResNet
from milonga_hub.learning.spaces.yolo import NAMED, Yolo

#: By name, the spaces for classification; those for detection are yolo.NAMED.
SPACES: dict[str, Callable[[int], Space]] = {kind.name: kind for kind in (MobileNetV3, ResNet, DenseNet)}


@lru_cache
def space(name: str, resolution_px: int) -> Space:
    """Return the space of that name for pictures of this size. Raises ValueError naming the known ones.

    Networks of those for detection can be built only where ultralytics is installed, else they raise UltralyticsMissing.
    """
    if name in SPACES:
        return SPACES[name](resolution_px)
    if name not in NAMED:
        raise ValueError(f"there is no space {name!r}; there are: {', '.join([*SPACES, *NAMED])}")
    return Yolo(resolution_px, *NAMED[name])


def rebuilt(settings: Mapping[str, Any]) -> Space:
    """Return the space that has these `settings`. Raises KeyError for one of a name that is not known here."""
    kinds: dict[str, Callable[..., Space]] = {**SPACES, Yolo.name: Yolo}
    given = {key: value for key, value in settings.items() if key not in ("name", "fixed")}
    family = kinds[settings["name"]](**given)
    return Fixed(family, settings["fixed"]) if "fixed" in settings else family


__all__ = ["SPACES", "Choice", "Cost", "Dimension", "Encoding", "Space", "rebuilt", "space"]
