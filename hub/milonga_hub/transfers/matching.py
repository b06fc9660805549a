"""Find which tensor of a base foretells a tensor of the target best, and how."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from milonga.deltas import Tensor, cut
from milonga.residuals import Foretelling, bits_of, foretold, planes, residual
from numpy.typing import NDArray

from milonga_hub.transfers.layout import floats, tensors

# Tensors are compared by so many of their first elements.
_SAMPLE_ELEMENTS = 4096
# So many bits of an element: a tensor of the same name that saves more is not compared with all the others.
_GOOD_SHARE = 0.75
# What foretells a tensor must leave so much less of it than its own bytes.
_WORTH_SHARE = 0.97
# A network with more weights of one type than this is not searched whole for each of them.
_MOST_CANDIDATES = 400

_FLOAT = ("f4", "f2")


_QUANTISED = "_quantized"


@dataclass(frozen=True)
class Weights:
    """A file's content, where its weights lie in it, and its small float tensors by name."""

    content: Any
    tensors: Sequence[Tensor]
    floats: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Any) -> Weights:
        return cls(content, tensors(content), floats(content))

    def scales(self, tensor: Tensor) -> NDArray[Any] | None:
        """Return the scales of a quantised weight by output channel, as ONNX Runtime's quantiser names them."""
        return self.floats.get(f"{_stem(tensor)}_scale") if tensor.dtype == "i1" else None


@dataclass(frozen=True)
class Match:
    """How a tensor is foretold. `begin` is where the target's lies in the base's, `axis` the dimension of the factors."""

    how: Foretelling
    base: Tensor | None = None
    begin: tuple[int, ...] = ()
    axis: int = 0
    factors: NDArray[np.float32] | None = None
    bits: float = math.inf


def best_match(target: Tensor, new: Weights, old: Weights) -> Match:
    """Return the match that leaves the fewest bits of a tensor of the new file."""
    values = target.values(new.content)
    nothing = Match(Foretelling.NONE, bits=_bits(bits_of(_rows(values), target.dtype)))
    fitting = [base for base in old.tensors if _fits(base, target)]
    fitting.sort(key=lambda base: (_stem(base) != _stem(target), base.shape != target.shape))
    best = nothing
    for number, base in enumerate(fitting[:_MOST_CANDIDATES]):
        scales = _ratios(new.scales(target), old.scales(base), base.dtype)
        for match in _matches(target, values, base, old.content, scales):
            if match.bits < best.bits * _WORTH_SHARE:
                best = match
        if number == 0 and _stem(base) == _stem(target) and best.bits < _GOOD_SHARE * nothing.bits:
            break
        if best.bits <= 0.01:
            break
    if best.base is None or best.how not in (Foretelling.SCALED, Foretelling.QUANTISED):
        return best
    part = cut(best.base.values(old.content), best.begin, values.shape)
    scales = _ratios(new.scales(target), old.scales(best.base), best.base.dtype)
    return replace(best, factors=_factors(best.how, values, part, best.axis, scales))


def _stem(tensor: Tensor) -> str:
    return tensor.name.removesuffix(_QUANTISED)


def _ratios(new: NDArray[Any] | None, old: NDArray[Any] | None, base_dtype: str) -> NDArray[Any] | None:
    """Return by what the base's elements are divided; None where the scales do not say."""
    if base_dtype != "i1" or new is None:
        return new
    if old is None:
        return None
    count = min(new.size, old.size)
    with np.errstate(all="ignore"):
        ratios = new[:count].astype(np.float64) / old[:count]
    return np.where(np.isfinite(ratios) & (ratios > 0), ratios, 1.0).astype(np.float32)


def _fits(base: Tensor, target: Tensor) -> bool:
    pair = (base.dtype, target.dtype)
    known = pair[0] == pair[1] or pair in (("f4", "f2"), ("f2", "f4"), ("f4", "i1"))
    return (
        known
        and len(base.shape) == len(target.shape)
        and all(have >= want for have, want in zip(base.shape, target.shape, strict=True))
    )


def _matches(
    target: Tensor, values: Any, base: Tensor, base_content: Any, scales: NDArray[Any] | None
) -> Iterator[Match]:
    whole = base.values(base_content)
    for begin in _begins(base, target):
        part = _rows(cut(whole, begin, target.shape))
        sample = _rows(values)
        for how in _ways(base.dtype, target.dtype, scales is not None):
            for axis in _axes(target, how, scales):
                factors = _factors(how, sample, part, axis, scales)
                expected = foretold(part, target.dtype, how, factors)
                left = residual(bits_of(sample, target.dtype), expected, target.dtype)
                cost = _bits(left) + (0.0 if factors is None else 32.0 * factors.size / max(1, sample.size))
                yield Match(how, base, begin, axis, None, cost)


def _ways(base: str, target: str, scaled: bool) -> list[Foretelling]:
    quantised = [Foretelling.QUANTISED] if scaled and target == "i1" else []
    if base == target:
        return [Foretelling.EQUAL, *quantised, *([Foretelling.SCALED] if target in _FLOAT else [])]
    return quantised if target == "i1" else [Foretelling.CAST]


def _axes(target: Tensor, how: Foretelling, scales: NDArray[Any] | None) -> Sequence[int]:
    # Output channels are the first dimension of a convolution; of a matrix product either.
    axes = (0, 1) if len(target.shape) == 2 else (0,)
    if how is Foretelling.SCALED:
        return axes
    if how is Foretelling.QUANTISED and scales is not None and scales.size > 1:
        return [axis for axis in axes if target.shape[axis] <= scales.size]
    return (0,)


def _begins(base: Tensor, target: Tensor) -> Iterator[tuple[int, ...]]:
    """Yield where a smaller tensor may lie: channels at the front, kernels in the centre (docs/learning.md)."""
    front = (0,) * len(target.shape)
    yield front
    if len(target.shape) == 4 and base.shape[2:] != target.shape[2:]:
        centre = tuple((have - want) // 2 for have, want in zip(base.shape[2:], target.shape[2:], strict=True))
        yield (0, 0, *centre)


def _rows(values: Any) -> Any:
    """Return the first rows, about as many elements as a sample has."""
    return values[: max(1, _SAMPLE_ELEMENTS // max(1, math.prod(values.shape[1:])))]


def _factors(
    how: Foretelling, values: Any, base: Any, axis: int, scales: NDArray[Any] | None
) -> NDArray[np.float32] | None:
    """Return a factor for each channel along the axis, with as many dimensions as the values."""
    along = tuple(size if index == axis else 1 for index, size in enumerate(values.shape))
    if how is Foretelling.QUANTISED:
        assert scales is not None
        each = np.resize(scales, values.shape[axis]) if scales.size == 1 else scales[: values.shape[axis]]
        return np.asarray(each, dtype=np.float32).reshape(along)
    if how is not Foretelling.SCALED:
        return None
    others = tuple(index for index in range(values.ndim) if index != axis)
    wide, narrow = base.astype(np.float64), values.astype(np.float64)
    with np.errstate(all="ignore"):
        ratios = (narrow * wide).sum(axis=others) / (wide * wide).sum(axis=others)
    return np.where(np.isfinite(ratios), ratios, 1.0).astype(np.float32).reshape(along)


def _bits(values: Any) -> float:
    """Return how many bits an element takes, each of its bytes coded by itself."""
    total = 0.0
    for plane in planes(values):
        counts = np.bincount(np.frombuffer(plane, dtype=np.uint8), minlength=256)
        shares = counts[counts > 0] / max(1, counts.sum())
        total -= float((shares * np.log2(shares)).sum())
    return total
