"""Weight sharing: a subnet is an ordinary network, each of whose weights is a part of the supernet's weight of that name.

A builder marks its layers with the channels that they use of the widest layer. From the marks, `shared_weights` cuts the
subnet's weights out of the supernet's, as views where it can; gradients flow back through the cut. Hidden channels are
taken from the front and smaller kernels are the centre of larger ones (once-for-all, Cai et al. 2020, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Channels:
    """Which channels of a layer with `full` channels are used: ranges [start, stop), in order."""

    ranges: tuple[tuple[int, int], ...]
    full: int

    @classmethod
    def first(cls, count: int, full: int) -> Channels:
        """Return the first `count` of `full` channels."""
        return cls(((0, count),), full)

    @classmethod
    def joined(cls, *parts: Channels) -> Channels:
        """Return the channels of a concatenation of these layers."""
        ranges: list[tuple[int, int]] = []
        offset = 0
        for part in parts:
            ranges += [(start + offset, stop + offset) for start, stop in part.ranges]
            offset += part.full
        return cls(tuple(ranges), offset)

    @property
    def count(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    def of(self, weight: Tensor, dimension: int) -> Tensor:
        """Return these channels of a weight along one dimension; a view where they are one range."""
        if self.count == weight.shape[dimension]:
            return weight
        pieces = [weight.narrow(dimension, start, stop - start) for start, stop in self.ranges]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dimension)


@dataclass(frozen=True)
class Part:
    """What a layer takes of the shared one: output channels, input channels, and that layer's name if not its own."""

    out: Channels | None = None
    into: Channels | None = None
    source: str | None = None


def mark(
    layer: Network, out: Channels | None = None, into: Channels | None = None, source: str | None = None
) -> Network:
    """Note on the layer which part of the shared one it takes, and return it. No mark means all of it."""
    layer.part = Part(out, into, source)
    return layer


class Buildable(Protocol):
    """A part of a network, as a small value that can be hashed."""

    @property
    def name(self) -> str: ...

    def __hash__(self) -> int: ...

    def build(self) -> nn.Module: ...


@dataclass(frozen=True)
class _Weight:
    """A weight of a layer, and which part of a shared one it is."""

    name: str
    layer: nn.Module
    kind: str
    own: nn.Parameter
    source: str
    part: Part

    def of(self, shared: Mapping[str, Tensor]) -> Tensor:
        weight = _cut(shared[self.source], self.part, self.own.shape)
        if weight.shape != self.own.shape:
            raise ValueError(f"{self.name}: has shape {tuple(self.own.shape)}, its part {tuple(weight.shape)}")
        return weight


def _weights(network: nn.Module, place: str = "") -> Iterator[_Weight]:
    for name, layer in network.named_modules(prefix=place):
        part = getattr(layer, "part", None) or Part()
        source = name if part.source is None else part.source
        for kind, own in layer.named_parameters(recurse=False):
            yield _Weight(f"{name}.{kind}", layer, kind, own, f"{source}.{kind}", part)


def shared_weights(shared: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the network, by name, as parts of the shared ones.

    Raises KeyError where a shared weight is missing and ValueError where the marks do not give the layer's shape.
    """
    return {one.name: one.of(shared) for one in _weights(network)}


def _cut(weight: Tensor, part: Part, shape: torch.Size) -> Tensor:
    if part.out is not None:
        weight = part.out.of(weight, 0)
    # A depthwise weight is (channels, 1, K, K).
    if part.into is not None and weight.dim() > 1 and weight.shape[1] > 1:
        weight = part.into.of(weight, 1)
    for dimension in range(2, weight.dim()):
        size = shape[dimension]
        if size != weight.shape[dimension]:
            weight = weight.narrow(dimension, (weight.shape[dimension] - size) // 2, size)
    return weight


class Skeleton:
    """A subnet that has no weights of its own, and runs on parts of the shared ones."""

    def __init__(self, network: nn.Module, place: str = "") -> None:
        """`network` may be on the meta device; `place` is its name in the subnet that it is a part of."""
        self.network = without_statistics(network).train()
        self._weights = list(_weights(network, place))

    @classmethod
    def of(cls, block: Buildable) -> Skeleton:
        """Return a block's."""
        with valueless():
            return cls(block.build(), block.name)

    @classmethod
    def chained(cls, parts: Mapping[str, Skeleton]) -> Skeleton:
        """Return these, made for the places that they are named after, one after the other."""
        found = cls(nn.Sequential())
        for name, part in parts.items():
            found.network.add_module(name, part.network)
            found._weights += part._weights
        return found

    def run(self, shared: Mapping[str, Tensor], *inputs: Any) -> Any:
        """Return what the network makes of its inputs. Raises as `shared_weights` does."""
        # What torch.func.functional_call does, without asking the network anew for all that it holds.
        try:
            for one in self._weights:
                one.layer._parameters[one.kind] = one.of(shared)
            return self.network(*inputs)
        finally:
            for one in self._weights:
                one.layer._parameters[one.kind] = one.own


@contextmanager
def valueless() -> Iterator[None]:
    """Build networks on the meta device, where weights have shapes and no values; no time goes into giving them any."""
    with torch.device("meta"), _NoFirstValues():
        yield


class _NoFirstValues(TorchFunctionMode):
    """Leaves out that weights are given first values: that takes most of the time of building."""

    _LEFT_OUT = frozenset(
        [
            *(getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")),
            *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_),
        ]
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._LEFT_OUT:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def without_statistics(network: Network) -> Network:
    """Let the network's normalisations go by the batch alone, and return it: statistics of one subnet are wrong for another."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return network


@torch.no_grad()
def filled(network: Network, weights: Mapping[str, Tensor]) -> Network:
    """Copy the weights into the network, take its marks off, and return it."""
    own = dict(network.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(weight)
    for layer in network.modules():
        if hasattr(layer, "part"):
            del layer.part
    return network
