"""Spaces whose networks are blocks one after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from torch import nn

from milonga_hub.learning.costs import Cost, traced
from milonga_hub.learning.sharing import Buildable, Channels, Skeleton, valueless
from milonga_hub.learning.spaces.base import RESOLUTION, Dimension, Space, resolutions
from milonga_hub.learning.spaces.layers import Block, Convolution, all_of

T = TypeVar("T")

# Smaller pictures are icons and digits, for which a published plan is far too large.
_LARGE_FROM_PX = 96


class Chain(Space):
    """A space whose networks are blocks one after the other; blocks of equal value are counted once."""

    @abstractmethod
    def blocks(self, encoding: Sequence[int], classes: int) -> list[Block]:
        """Return the blocks of a subnet, in order; those of equal name share weights."""

    def network(self, encoding: Sequence[int], classes: int) -> nn.Module:
        return nn.Sequential(OrderedDict((one.name, one.build()) for one in self.blocks(encoding, classes)))

    def skeleton(self, encoding: Sequence[int], classes: int, part: Callable[[Buildable], Skeleton]) -> Skeleton:
        return Skeleton.chained({one.name: part(one) for one in self.blocks(encoding, classes)})

    def cost(self, encoding: Sequence[int], classes: int) -> Cost:
        size = self.resolution(encoding)
        whole = Cost(0, 0, 0, 0, 0, 0)
        shape: tuple[int, ...] = (1, 3, size, size)
        for block in self.blocks(encoding, classes):
            cost, shape = _counted(block.nameless(), shape)
            whole = whole.then(cost)
        return whole


@lru_cache(maxsize=100_000)
def _counted(block: Block, shape: tuple[int, ...]) -> tuple[Cost, tuple[int, ...]]:
    with valueless():
        cost, found = traced(block.build(), shape)
    return cost, tuple(found.shape)


def sized(resolution_px: int, small: T, large: T) -> T:
    """Return the plan of the largest network for pictures of this size."""
    return large if resolution_px >= _LARGE_FROM_PX else small


def resolution_dimension(resolution_px: int) -> Dimension:
    """Return the choice of pixels: in steps of 4, as icons need them, or of 16."""
    return Dimension(RESOLUTION, resolutions(resolution_px, sized(resolution_px, 4, 16)))


def stem(width: int, strides_: Sequence[int]) -> tuple[list[Block], Channels]:
    """Return 3 x 3 convolutions of a picture, one a stride, and the channels that they make."""
    blocks, channels = list[Block](), all_of(3)
    for number, stride in enumerate(strides_):
        blocks.append(Convolution(f"stem{number}", channels, all_of(width), 3, stride))
        channels = all_of(width)
    return blocks, channels


def strides(resolution_px: int, stages: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return strides of the stem's layers and of each stage's first block that bring pictures down to 4 to 7 pixels."""
    halvings = max(0, (resolution_px // 4).bit_length() - 1)
    # Late stages first: there halving costs the least detail.
    of_stages = [1] * stages
    for number in range(stages - 1, 0, -1):
        if halvings > 0:
            of_stages[number] = 2
            halvings -= 1
    stem = [2] if halvings > 0 else [1]
    halvings -= stem[0] == 2
    if halvings > 0:
        of_stages[0] = 2
        halvings -= 1
    stem += [2] * max(0, halvings)
    return tuple(stem), tuple(of_stages)
