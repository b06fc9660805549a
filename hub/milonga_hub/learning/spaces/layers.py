"""Layers that the classification spaces are made of, marked for weight sharing, and blocks as small values.

Every convolution is followed by its normalisation and activation in a plain `nn.Sequential`, so that both can be folded.
Activations are ReLU: hard-swish is slower in int8 on common processors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from milonga_hub.learning.sharing import Channels, mark
from milonga_hub.learning.spaces.base import rounded


@dataclass(frozen=True)
class Block(ABC):
    """One block of a chain: equal values build networks of equal cost, whatever their name."""

    name: str

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the block with fresh weights and marks."""

    def nameless(self) -> Block:
        return replace(self, name="")


def all_of(count: int) -> Channels:
    return Channels.first(count, count)


def convolution(
    into: Channels, out: Channels, kernel: int, stride: int = 1, depthwise: bool = False, activated: bool = True
) -> nn.Sequential:
    """Return convolution, normalisation and, unless it is left out, ReLU."""
    groups = out.count if depthwise else 1
    layer = nn.Conv2d(into.count, out.count, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = mark(layer, out, None if depthwise else into)
    parts["norm"] = mark(nn.BatchNorm2d(out.count), out)
    if activated:
        parts["act"] = nn.ReLU()
    return nn.Sequential(parts)


def starting_at_zero(block: nn.Sequential) -> nn.Sequential:
    """Let a residual block start as the identity (Goyal et al. 2017, section 5.1), so that leaving it out changes little."""
    nn.init.zeros_(block.norm.weight)
    return block


class SqueezeExcite(nn.Module):
    """Scales each channel by what all pixels say (Hu et al. 2018), with the hard sigmoid of MobileNetV3."""

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        reduced = Channels.first(rounded(channels.count / 4), rounded(channels.full / 4))
        self.reduce = mark(nn.Conv2d(channels.count, reduced.count, 1), reduced, channels)
        self.expand = mark(nn.Conv2d(reduced.count, channels.count, 1), channels, reduced)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.relu(self.reduce(x.mean(dim=(2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.expand(scale))


class Residual(nn.Module):
    """Adds its input, through a shortcut where there is one, to what its layers make of it."""

    def __init__(self, layers: nn.Module, shortcut: nn.Module | None = None, activated: bool = False) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut if shortcut is not None else nn.Identity()
        self.act = nn.ReLU() if activated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shortcut(x) + self.layers(x))


class Joined(nn.Module):
    """Adds what its layers make as further channels (Huang et al. 2017)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], dim=1)


@dataclass(frozen=True)
class Convolution(Block):
    """Convolution, normalisation, ReLU; then a mean over 2 x 2 pixels where `pooled`."""

    into: Channels
    out: Channels
    kernel: int
    stride: int = 1
    pooled: bool = False

    def build(self) -> nn.Module:
        layers = convolution(self.into, self.out, self.kernel, self.stride)
        if self.pooled:
            layers.add_module("pool", nn.AvgPool2d(2, ceil_mode=True))
        return layers


@dataclass(frozen=True)
class Classifier(Block):
    """The mean over all pixels, and a linear layer."""

    features: Channels
    classes: int

    def build(self) -> nn.Module:
        parts = [
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flat", nn.Flatten()),
            ("linear", mark(nn.Linear(self.features.count, self.classes), into=self.features)),
        ]
        return nn.Sequential(OrderedDict(parts))
