"""Spaces: families of networks that share weights, and what may vary in each."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from milonga_hub.learning.costs import Cost
from milonga_hub.learning.spaces.base import Choice, Dimension, Encoding, Space
from milonga_hub.learning.spaces.densenet import DenseNet
from milonga_hub.learning.spaces.mbv3 import MobileNetV3
from milonga_hub.learning.spaces.resnet import ResNet

#: The spaces for classification. "yolo" is the one for detection; it needs ultralytics, which is slow to import.
SPACES: dict[str, Callable[[int], Space]] = {kind.name: kind for kind in (MobileNetV3, ResNet, DenseNet)}


@lru_cache
def space(name: str, resolution_px: int) -> Space:
    """Return the space of that name for pictures of this size.

    Raises ValueError naming the known ones, and UltralyticsMissing for "yolo" where ultralytics is not installed.
    """
    if name == "yolo":
        from milonga_hub.learning.spaces.yolo import Yolo

        return Yolo(resolution_px)
    if name not in SPACES:
        raise ValueError(f"there is no space {name!r}; there are: {', '.join([*SPACES, 'yolo'])}")
    return SPACES[name](resolution_px)


__all__ = ["SPACES", "Choice", "Cost", "Dimension", "Encoding", "Space", "space"]
