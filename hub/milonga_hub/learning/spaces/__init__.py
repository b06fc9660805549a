"""Spaces: families of networks that share weights, and what may vary in each."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from milonga_hub.learning.costs import Cost
from milonga_hub.learning.spaces.base import Choice, Dimension, Encoding, Space
from milonga_hub.learning.spaces.densenet import DenseNet
from milonga_hub.learning.spaces.mbv3 import MobileNetV3
from milonga_hub.learning.spaces.resnet import ResNet

SPACES: dict[str, Callable[[int], Space]] = {kind.name: kind for kind in (MobileNetV3, ResNet, DenseNet)}


@lru_cache
def space(name: str, resolution_px: int) -> Space:
    """Return the space of that name for pictures of this size. Raises ValueError naming the known ones."""
    if name not in SPACES:
        raise ValueError(f"there is no space {name!r}; there are: {', '.join(SPACES)}")
    return SPACES[name](resolution_px)


__all__ = ["SPACES", "Choice", "Cost", "Dimension", "Encoding", "Space", "space"]
