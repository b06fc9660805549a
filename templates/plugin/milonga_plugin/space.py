"""A search space: 3 x 3 convolutions one after the other, elastic in depth and width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from milonga_hub.learning.sharing import Channels
from milonga_hub.learning.spaces.base import RESOLUTION, Choice, Dimension, rounded
from milonga_hub.learning.spaces.chain import Chain, resolution_dimension, stem, strides
from milonga_hub.learning.spaces.layers import Block, Classifier, Convolution, all_of

_STEM = 16
_FULL = (32, 64)
_DEPTHS = (1, 2, 3)
_WIDTHS = (0.5, 0.75, 1.0)


class Plain(Chain):
    """For each of two stages a depth and a width, and the resolution; blocks of equal name share their weights."""

    name = "plain"

    def __init__(self, resolution_px: int) -> None:
        super().__init__(resolution_px)
        self._strides = strides(resolution_px, len(_FULL))

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        stages = [
            dimension
            for stage in range(len(_FULL))
            for dimension in (Dimension(f"stage{stage}.depth", _DEPTHS), Dimension(f"stage{stage}.width", _WIDTHS))
        ]
        return (resolution_dimension(self.resolution_px), *stages)

    def unused(self, values: Mapping[str, Choice]) -> Iterable[str]:
        # Every choice has an effect. A space with choices for each block names those of blocks that the depth leaves out.
        return ()

    def blocks(self, encoding: Sequence[int], classes: int) -> list[Block]:
        values = self.values(self.canonical(encoding))
        blocks, channels = stem(_STEM, self._strides[0])
        for stage, full in enumerate(_FULL):
            out = Channels.first(rounded(full * float(values[f"stage{stage}.width"])), full)
            for number in range(int(values[f"stage{stage}.depth"])):
                stride = self._strides[1][stage] if number == 0 else 1
                blocks.append(Convolution(f"stage{stage}_block{number}", channels, out, 3, stride))
                channels = out
        head = all_of(_FULL[-1])
        return [*blocks, Convolution("head", channels, head, 1), Classifier("classifier", head, classes)]

    def describe(self, encoding: Sequence[int]) -> str:
        values = self.values(self.canonical(encoding))
        stages = [f"{values[f'stage{stage}.depth']} x {values[f'stage{stage}.width']}" for stage in range(len(_FULL))]
        return " | ".join([f"{values[RESOLUTION]} px", *stages])
