"""Count what a network costs by running it on tensors without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten._convolution.default)
# They go value by value: engines write them over their input where nothing else needs it.
_BY_VALUE = {
    "relu",
    "silu",
    "hardtanh",
    "hardsigmoid",
    "hardswish",
    "sigmoid",
    "clamp",
    "leaky_relu",
    "add",
    "mul",
    "div",
}
_PRODUCTS = (torch.ops.aten.addmm.default, torch.ops.aten.mm.default, torch.ops.aten.bmm.default)


@dataclass(frozen=True)
class Cost:
    """What a network costs for one picture, from its shape alone.

    `activations` are the values that its convolutions and products make; `peak_activations` are the most values that are
    alive at once, as an engine that reuses memory and works in place holds them. `params` has batch normalisation folded
    into a bias.
    """

    macs: int
    params: int
    activations: int
    peak_activations: int
    layers: int
    depthwise_macs: int

    def then(self, other: Cost) -> Cost:
        """Return the cost of both, one after the other."""
        return Cost(
            macs=self.macs + other.macs,
            params=self.params + other.params,
            activations=self.activations + other.activations,
            peak_activations=max(self.peak_activations, other.peak_activations),
            layers=self.layers + other.layers,
            depthwise_macs=self.depthwise_macs + other.depthwise_macs,
        )


def traced(network: nn.Module, *inputs: Sequence[int]) -> tuple[Cost, Any]:
    """Return the cost of a network on the meta device for inputs of these shapes, batch 1, and what it returns.

    The network is good for nothing else afterwards: its normalisations are passed over, as engines fold them.
    """
    for layer in network.eval().modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = _unchanged
    given = [torch.empty(tuple(shape), device="meta") for shape in inputs]
    with torch.no_grad(), _Counter() as counter:
        found = network(*given)
    cost = Cost(
        macs=counter.macs,
        params=_params(network),
        activations=counter.activations,
        peak_activations=_peak(counter.steps, given, [one for one in tree_leaves(found) if isinstance(one, Tensor)]),
        layers=counter.layers,
        depthwise_macs=counter.depthwise,
    )
    return cost, found


def _unchanged(x: Tensor) -> Tensor:
    return x


def _params(network: nn.Module) -> int:
    """Return the weights that are left once each normalisation is folded into the convolution before it."""
    total = 0
    for layer in network.modules():
        own = sum(weight.numel() for weight in layer.parameters(recurse=False))
        total += layer.num_features if isinstance(layer, nn.BatchNorm2d) else own
    return total


@dataclass(frozen=True)
class _Step:
    """One operation: what it reads and makes, and whether it may write over what it reads."""

    reads: tuple[Tensor, ...]
    makes: tuple[Tensor, ...]
    in_place: bool


class _Counter(TorchDispatchMode):
    """Counts operations, and writes down what each reads and makes.

    The shapes that are found here torch would find in Python that its compiler has: three seconds of processor time to import, and
    half of what counting takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.depthwise = self.activations = self.layers = 0
        self.steps: list[_Step] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing here is compiled, so that torch needs not import its compiler to keep it off.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_value = name.rstrip("_") in _BY_VALUE
        reads = tuple(one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor))
        if by_value and all(one.is_floating_point() for one in reads):
            shape = np.broadcast_shapes(*(one.shape for one in reads))
            found = args[0] if name.endswith("_") else reads[0].new_empty(shape)
        elif func is torch.ops.aten.mean.dim and not kwargs:
            found = args[0].new_empty(_reduced(*args))
        elif func is torch.ops.aten.addmm.default:
            found = args[1].new_empty((args[1].shape[0], args[2].shape[1]))
        elif func is torch.ops.aten.cat.default:
            found = reads[0].new_empty(_joined([one.shape for one in reads], *args[1:]))
        else:
            found = func(*args, **(kwargs or {}))
        if func in _CONVOLUTIONS:
            weight = args[1]
            macs = found[0, 0].numel() * weight.numel()
            self._layer(found, macs)
            if weight.shape[1] == 1 and weight.shape[0] > 1:
                self.depthwise += macs
        elif func in _PRODUCTS:
            self._layer(found, found.numel() * args[-2].shape[-1])
        makes = tuple(one for one in tree_leaves(found) if isinstance(one, Tensor))
        self.steps.append(_Step(reads, makes, by_value))
        return found

    def _layer(self, found: Tensor, macs: int) -> None:
        self.macs += macs
        self.activations += found.numel()
        self.layers += 1


def _reduced(x: Tensor, dimensions: Sequence[int] | None, kept: bool = False) -> list[int]:
    """Return the shape of a mean over these dimensions, or over all."""
    gone = {one % x.dim() for one in (dimensions or range(x.dim()))}
    return [1 if one in gone else size for one, size in enumerate(x.shape) if kept or one not in gone]


def _joined(shapes: Sequence[Sequence[int]], dimension: int = 0) -> list[int]:
    shape = [*shapes[0]]
    shape[dimension] = sum(one[dimension] for one in shapes)
    return shape


def _peak(steps: Sequence[_Step], given: Sequence[Tensor], kept: Sequence[Tensor]) -> int:
    """Return the most values alive at once where each lives from what makes it to its last reader."""
    last: dict[int, int] = {}
    for number, step in enumerate(steps):
        last.update(dict.fromkeys(map(_storage, step.reads), number))
    last.update(dict.fromkeys(map(_storage, kept), len(steps)))
    alive = {_storage(one): one.numel() for one in given}
    peak = sum(alive.values())
    for number, step in enumerate(steps):
        dying = [key for key in map(_storage, step.reads) if key in alive and last[key] == number]
        if step.in_place and dying:
            alive.pop(dying[0])
        for one in step.makes:
            alive.setdefault(_storage(one), one.numel())
        peak = max(peak, sum(alive.values()))
        alive = {key: values for key, values in alive.items() if last.get(key, -1) > number}
    return int(peak)


def _storage(one: Tensor) -> int:
    return int(one.untyped_storage()._cdata)
