"""Find which tensor of a base foretells a tensor of the target best, and how."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from milonga.deltas import Tensor, cut
from milonga.residuals import Foretelling, bits_of, foretold, residual, width_of
from numpy.typing import NDArray

# Tensors are compared by so many of their first elements.
_SAMPLE_ELEMENTS = 4096
# So many bits of an element: a tensor of the same name that saves more is not compared with all the others.
_GOOD_SHARE = 0.75
# What foretells a tensor must leave so much less of it than its own bytes.
_WORTH_SHARE = 0.97
# A network with more weights of one type than this is not searched whole for each of them.
_MOST_CANDIDATES = 400

_FLOAT = ("f4", "f2")


@dataclass(frozen=True)
class Match:
    """How a tensor is foretold. `begin` is where the target's lies in the base's, `axis` the dimension of the factors."""

    how: Foretelling
    base: Tensor | None = None
    begin: tuple[int, ...] = ()
    axis: int = 0
    factors: NDArray[np.float32] | None = None
    bits: float = math.inf


def best_match(
    target: Tensor, content: Any, bases: Sequence[Tensor], base_content: Any, scales: NDArray[Any] | None
) -> Match:
    """Return the match that leaves the fewest bits. `scales` are those of a quantised tensor, by output channel."""
    values = target.values(content)
    nothing = Match(Foretelling.NONE, bits=_own_bits(values, target.dtype))
    fitting = [base for base in bases if _fits(base, target)]
    fitting.sort(key=lambda base: (base.name != target.name, base.shape != target.shape))
    best = nothing
    for number, base in enumerate(fitting[:_MOST_CANDIDATES]):
        for match in _matches(target, values, base, base_content, scales):
            if match.bits < best.bits * _WORTH_SHARE:
                best = match
        if number == 0 and base.name == target.name and best.bits < _GOOD_SHARE * nothing.bits:
            break
        if best.bits <= 0.01:
            break
    return _with_all_factors(best, values, base_content, scales)


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
            for axis in _axes(target, how):
                factors = _factors(how, sample, part, axis, scales)
                expected = foretold(part, target.dtype, how, factors)
                left = residual(bits_of(sample, target.dtype), expected, target.dtype)
                cost = _bits(left) + (0.0 if factors is None else 32.0 * factors.size / max(1, sample.size))
                yield Match(how, base, begin, axis, None, cost)


def _ways(base: str, target: str, scaled: bool) -> list[Foretelling]:
    if base == target:
        return [Foretelling.EQUAL, Foretelling.SCALED] if target in _FLOAT else [Foretelling.EQUAL]
    if target == "i1":
        return [Foretelling.QUANTISED] if scaled else []
    return [Foretelling.CAST]


def _axes(target: Tensor, how: Foretelling) -> Sequence[int]:
    # Output channels are the first dimension of a convolution; of a matrix product either.
    if how is Foretelling.SCALED:
        return (0, 1) if len(target.shape) == 2 else (0,)
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


def _with_all_factors(match: Match, values: Any, base_content: Any, scales: NDArray[Any] | None) -> Match:
    if match.base is None or match.how not in (Foretelling.SCALED, Foretelling.QUANTISED):
        return match
    part = cut(match.base.values(base_content), match.begin, values.shape)
    factors = _factors(match.how, values, part, match.axis, scales)
    return Match(match.how, match.base, match.begin, match.axis, factors, match.bits)


def _bits(left: Any) -> float:
    """Estimate how many bits an element of this takes: those that are not zero, and what says how many they are."""
    counts = np.log2(left.reshape(-1).astype(np.float64) + 1.0)
    return float(counts.mean() + min(1.0, counts.mean())) if counts.size else 0.0


def _own_bits(values: Any, dtype: str) -> float:
    """Estimate how many bits an element takes by itself; signs and exponents of weights are much alike."""
    width = width_of(dtype)
    split = np.ascontiguousarray(_rows(values)).reshape(-1).view(np.uint8).reshape(-1, width)
    total = 0.0
    for index in range(width):
        counts = np.bincount(split[:, index], minlength=256)
        shares = counts[counts > 0] / counts.sum()
        total -= float((shares * np.log2(shares)).sum())
    return total
