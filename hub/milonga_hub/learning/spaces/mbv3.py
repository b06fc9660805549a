"""MobileNetV3-like networks (Howard et al. 2019), elastic as in once-for-all (Cai et al. 2020)."""

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
    SqueezeExcite,
    all_of,
    convolution,
    starting_at_zero,
)

_WIDTHS = (0.5, 0.75, 1.0)
_KERNELS = (3, 5, 7)


@dataclass(frozen=True)
class _Size:
    """The largest network for pictures of some size."""

    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    expands: tuple[int, ...]
    head: int


# Icons and digits; and pictures of 96 pixels and more, where the plan is MobileNetV3's.
_SMALL = _Size(16, (16, 32, 64), (3, 3, 3), (1, 2, 4), 128)
_LARGE = _Size(16, (16, 24, 40, 96, 160), (2, 4, 4, 4, 4), (3, 4, 6), 640)


@dataclass(frozen=True)
class _InvertedResidual(Block):
    """A block of MobileNetV3: expand, depthwise, squeeze and excite, project."""

    into: Channels
    hidden: Channels
    out: Channels
    kernel: int
    stride: int
    squeeze: bool
    residual: bool
    expands: bool

    def build(self) -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if self.expands:
            parts["expand"] = convolution(self.into, self.hidden, 1)
        parts["depthwise"] = convolution(self.hidden, self.hidden, self.kernel, self.stride, depthwise=True)
        if self.squeeze:
            parts["squeeze"] = SqueezeExcite(self.hidden)
        parts["project"] = convolution(self.hidden, self.out, 1, activated=False)
        if not self.residual:
            # Under the same name with and without the sum, so that the weights are found.
            return nn.Sequential(OrderedDict(layers=nn.Sequential(parts)))
        starting_at_zero(parts["project"])
        return Residual(nn.Sequential(parts))


class MobileNetV3(Chain):
    """Elastic per stage: depth, width, squeeze-and-excite; per block: kernel, expansion; and resolution."""

    name = "mbv3"

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
                Dimension(f"stage{stage}.squeeze", (False, True)),
            ]
            for block in range(depth):
                found += [
                    Dimension(f"stage{stage}.block{block}.expand", self._size.expands),
                    Dimension(f"stage{stage}.block{block}.kernel", _KERNELS),
                ]
        return tuple(found)

    def unused(self, values: Mapping[str, Choice]) -> Iterable[str]:
        for stage, depth in enumerate(self._size.depths):
            for block in range(int(values[f"stage{stage}.depth"]), depth):
                yield from (f"stage{stage}.block{block}.expand", f"stage{stage}.block{block}.kernel")

    def blocks(self, encoding: Sequence[int], classes: int) -> list[Block]:
        size, values = self._size, self.values(self.canonical(encoding))
        blocks, channels = stem(size.stem, self._strides[0])
        for stage, full in enumerate(size.widths):
            out = Channels.first(rounded(full * float(values[f"stage{stage}.width"])), full)
            for number in range(int(values[f"stage{stage}.depth"])):
                blocks.append(self._block(values, stage, number, channels, out))
                channels = out
        head = all_of(size.head)
        return [*blocks, Convolution("head", channels, head, 1), Classifier("classifier", head, classes)]

    def _block(
        self, values: Mapping[str, Choice], stage: int, number: int, into: Channels, out: Channels
    ) -> _InvertedResidual:
        name = f"stage{stage}.block{number}"
        expand = int(values[f"{name}.expand"])
        return _InvertedResidual(
            name=name.replace(".", "_"),
            into=into,
            hidden=Channels.first(into.count * expand, into.full * self._size.expands[-1]),
            out=out,
            kernel=int(values[f"{name}.kernel"]),
            stride=self._strides[1][stage] if number == 0 else 1,
            squeeze=bool(values[f"stage{stage}.squeeze"]),
            residual=number > 0,
            expands=expand > 1,
        )

    def describe(self, encoding: Sequence[int]) -> str:
        """Return resolution; then for each stage its width, "se", and blocks as expansion x kernel."""
        values = self.values(self.canonical(encoding))
        stages = [f"{values[RESOLUTION]} px"]
        for stage, full in enumerate(self._size.widths):
            width = rounded(full * float(values[f"stage{stage}.width"]))
            names = [f"stage{stage}.block{number}" for number in range(int(values[f"stage{stage}.depth"]))]
            blocks = [f"{values[f'{name}.expand']}x{values[f'{name}.kernel']}" for name in names]
            squeeze = "se " if values[f"stage{stage}.squeeze"] else ""
            stages.append(f"{width}: {squeeze}{' '.join(blocks)}")
        return " | ".join(stages)
