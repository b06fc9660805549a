"""Densely connected networks (Huang et al. 2017), normalised after each convolution, so that engines can fold it (as in
Pelee, Wang et al. 2018, section 2.1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from milonga_hub.learning.sharing import Channels
from milonga_hub.learning.spaces.base import RESOLUTION, Choice, Dimension, rounded
from milonga_hub.learning.spaces.chain import Chain, resolution_dimension, sized, stem, strides
from milonga_hub.learning.spaces.layers import Block, Classifier, Convolution, Joined, convolution

_EXPANDS = (1, 2, 4)
_WIDTHS = (0.5, 0.75, 1.0)
_DEPTHS = (0.34, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class _Size:
    """`layers` of each dense stage, channels that each `grows` by, and `widths` that transitions narrow to."""

    stem: int
    layers: tuple[int, ...]
    grows: tuple[int, ...]
    widths: tuple[int, ...]


_SMALL = _Size(16, (4, 4, 4), (4, 8, 12), (32, 48, 96))
_LARGE = _Size(32, (6, 8, 12, 8), (8, 16, 24), (96, 160, 256, 384))


@dataclass(frozen=True)
class _Layer(Block):
    """A bottleneck of 1 x 1 and 3 x 3 convolutions whose channels join its input's."""

    into: Channels
    middle: Channels
    out: Channels

    def build(self) -> nn.Module:
        parts = [("reduce", convolution(self.into, self.middle, 1)), ("grow", convolution(self.middle, self.out, 3))]
        return Joined(nn.Sequential(OrderedDict(parts)))


class DenseNet(Chain):
    """Elastic per stage: depth, growth, expansion of its bottlenecks, width of its transition; and resolution."""

    name = "densenet"

    def __init__(self, resolution_px: int) -> None:
        super().__init__(resolution_px)
        self._size = sized(resolution_px, _SMALL, _LARGE)
        self._strides = strides(resolution_px, len(self._size.layers))

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        found = [resolution_dimension(self.resolution_px)]
        for stage, layers in enumerate(self._size.layers):
            depths = tuple(sorted({max(1, round(layers * share)) for share in _DEPTHS}))
            found += [
                Dimension(f"stage{stage}.depth", depths),
                Dimension(f"stage{stage}.growth", self._size.grows),
                Dimension(f"stage{stage}.expand", _EXPANDS),
                Dimension(f"stage{stage}.width", _WIDTHS),
            ]
        return tuple(found)

    def unused(self, values: Mapping[str, Choice]) -> Iterable[str]:
        return ()

    def blocks(self, encoding: Sequence[int], classes: int) -> list[Block]:
        size, values = self._size, self.values(self.canonical(encoding))
        blocks, channels = stem(size.stem, self._strides[0])
        for stage in range(len(size.layers)):
            added, channels = self._stage(values, stage, channels)
            blocks += added
            out = Channels.first(rounded(size.widths[stage] * float(values[f"stage{stage}.width"])), size.widths[stage])
            # Halved after the stage, where the next one starts with a halving.
            halved = stage + 1 < len(size.layers) and self._strides[1][stage + 1] == 2
            blocks.append(Convolution(f"stage{stage}_transition", channels, out, 1, pooled=halved))
            channels = out
        return [*blocks, Classifier("classifier", channels, classes)]

    def _stage(self, values: Mapping[str, Choice], stage: int, into: Channels) -> tuple[list[Block], Channels]:
        growth, most = int(values[f"stage{stage}.growth"]), self._size.grows[-1]
        expand, out = int(values[f"stage{stage}.expand"]), Channels.first(growth, most)
        blocks, channels = list[Block](), into
        for number in range(self._size.layers[stage]):
            if number < int(values[f"stage{stage}.depth"]):
                middle = Channels.first(growth * expand, most * _EXPANDS[-1])
                blocks.append(_Layer(f"stage{stage}_layer{number}", channels, middle, out))
                channels = Channels.joined(channels, out)
            else:
                channels = Channels.joined(channels, Channels((), most))
        return blocks, channels

    def describe(self, encoding: Sequence[int]) -> str:
        """Return resolution; then for each stage layers x growth, expansion, and the transition's width."""
        values = self.values(self.canonical(encoding))
        stages = [f"{values[RESOLUTION]} px"]
        for stage, full in enumerate(self._size.widths):
            named = {name: values[f"stage{stage}.{name}"] for name in ("depth", "growth", "expand", "width")}
            width = rounded(full * float(named["width"]))
            stages.append(f"{named['depth']}x{named['growth']} expand {named['expand']} to {width}")
        return " | ".join(stages)
