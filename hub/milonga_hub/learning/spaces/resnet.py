"""Residual networks of bottlenecks (He et al. 2016), elastic as in once-for-all's ResNet-50 (Cai et al. 2020)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from milonga_hub.learning.sharing import Channels
from milonga_hub.learning.spaces.base import RESOLUTION, Choice, Dimension, rounded
from milonga_hub.learning.spaces.chain import Chain, resolution_dimension, sized, stem, strides
from milonga_hub.learning.spaces.layers import (
    Block,
    Classifier,
    Convolution,
    Residual,
    all_of,
    convolution,
    starting_at_zero,
)

_WIDTHS = (0.5, 0.75, 1.0)
_EXPANDS = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class _Size:
    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]


_SMALL = _Size(16, (32, 64, 128), (3, 3, 3))
_LARGE = _Size(32, (64, 128, 256, 512), (3, 4, 6, 3))


@dataclass(frozen=True)
class _Bottleneck(Block):
    """1 x 1, 3 x 3, 1 x 1 convolutions and a sum; the first of a stage has a shortcut of its own."""

    into: Channels
    middle: Channels
    out: Channels
    stride: int
    first: bool

    def build(self) -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["reduce"] = convolution(self.into, self.middle, 1)
        parts["middle"] = convolution(self.middle, self.middle, 3, self.stride)
        parts["expand"] = convolution(self.middle, self.out, 1, activated=False)
        if not self.first:
            starting_at_zero(parts["expand"])
        return Residual(nn.Sequential(parts), self._shortcut(), activated=True)

    def _shortcut(self) -> nn.Module | None:
        """Return a mean over pixels and a projection (ResNet-D, He et al. 2019, section 4.2), so that no pixel is lost."""
        if not self.first:
            return None
        shortcut = convolution(self.into, self.out, 1, activated=False)
        if self.stride == 1:
            return shortcut
        return nn.Sequential(OrderedDict(pool=nn.AvgPool2d(2, ceil_mode=True), project=shortcut))


class ResNet(Chain):
    """Elastic per stage: depth and width; per block: expansion of the bottleneck; and resolution."""

    name = "resnet"

    def __init__(self, resolution_px: int) -> None:
        super().__init__(resolution_px)
        self._size = sized(resolution_px, _SMALL, _LARGE)
        self._strides = strides(resolution_px, len(self._size.widths))

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        found = [resolution_dimension(self.resolution_px)]
        for stage, depth in enumerate(self._size.depths):
            found += [
                Dimension(f"stage{stage}.depth", tuple(range(1, depth + 1))),
                Dimension(f"stage{stage}.width", _WIDTHS),
            ]
            found += [Dimension(f"stage{stage}.block{block}.expand", _EXPANDS) for block in range(depth)]
        return tuple(found)

    def unused(self, values: Mapping[str, Choice]) -> Iterable[str]:
        for stage, depth in enumerate(self._size.depths):
            for block in range(int(values[f"stage{stage}.depth"]), depth):
                yield f"stage{stage}.block{block}.expand"

    def blocks(self, encoding: Sequence[int], classes: int) -> list[Block]:
        size, values = self._size, self.values(self.canonical(encoding))
        blocks, channels = stem(size.stem, self._strides[0])
        for stage, full in enumerate(size.widths):
            out = Channels.first(rounded(full * float(values[f"stage{stage}.width"])), full)
            for number in range(int(values[f"stage{stage}.depth"])):
                expand = float(values[f"stage{stage}.block{number}.expand"])
                middle = Channels.first(rounded(out.count * expand), rounded(full * _EXPANDS[-1]))
                stride = self._strides[1][stage] if number == 0 else 1
                blocks.append(_Bottleneck(f"stage{stage}_block{number}", channels, middle, out, stride, number == 0))
                channels = out
        head = all_of(size.widths[-1])
        return [*blocks, Convolution("head", channels, head, 1), Classifier("classifier", head, classes)]

    def describe(self, encoding: Sequence[int]) -> str:
        """Return resolution; then for each stage its width and the expansions of its blocks."""
        values = self.values(self.canonical(encoding))
        stages = [f"{values[RESOLUTION]} px"]
        for stage, full in enumerate(self._size.widths):
            width = rounded(full * float(values[f"stage{stage}.width"]))
            depth = int(values[f"stage{stage}.depth"])
            blocks = [f"{values[f'stage{stage}.block{number}.expand']:g}" for number in range(depth)]
            stages.append(f"{width}: {' '.join(blocks)}")
        return " | ".join(stages)
