"""What a space is: elastic dimensions, and for each choice of all of them a network.

An encoding holds one whole number for each dimension: which of its choices is taken. A choice that has no effect (the kernel
of a block that the depth leaves out) is written as 0, so that equal subnets have equal encodings.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from milonga_hub.learning.costs import Cost
from milonga_hub.learning.folding import fold
from milonga_hub.learning.sharing import Buildable, Skeleton, valueless

Encoding = tuple[int, ...]
Choice = int | float | str | bool

RESOLUTION = "resolution"
_SHARES, _LEAST_SHARE = (0.625, 0.75, 0.875), 0.6


@dataclass(frozen=True)
class Dimension:
    """One elastic dimension; its choices stand from the smallest to the largest where they have an order."""

    name: str
    choices: tuple[Choice, ...]


class Space(ABC):
    """All networks of one family that share weights, for pictures of at most `resolution_px` pixels squared.

    A kind of space says its `name` and task, and builds dimensions, networks and costs; all else follows here.
    """

    name: ClassVar[str]
    #: "classification": a network makes logits (n, classes) of pictures (n, 3, H, W). "detection": what ultralytics makes.
    task: ClassVar[str] = "classification"
    #: What the output is named where networks are handed out.
    output: ClassVar[str] = "logits"

    def __init__(self, resolution_px: int) -> None:
        self.resolution_px = resolution_px

    @property
    def settings(self) -> dict[str, Any]:
        """Return all that `spaces.rebuilt` needs to make this space again, as plain values."""
        return {"name": self.name, "resolution_px": self.resolution_px}

    @property
    @abstractmethod
    def dimensions(self) -> tuple[Dimension, ...]:
        """Return the dimensions; one of them is named "resolution" and holds pixels."""

    @abstractmethod
    def unused(self, values: Mapping[str, Choice]) -> Iterable[str]:
        """Return the names of dimensions without effect, given the choices of all."""

    @abstractmethod
    def network(self, encoding: Sequence[int], classes: int) -> nn.Module:
        """Return the subnet as an ordinary network with fresh weights, its layers marked for `sharing.shared_weights`."""

    def skeleton(self, encoding: Sequence[int], classes: int, part: Callable[[Buildable], Skeleton]) -> Skeleton:
        """Return the subnet as it is trained, on parts of shared weights. `part` gives a block's, made once: to make all anew takes as long as to run them."""
        with valueless():
            return Skeleton(self.network(encoding, classes))

    @abstractmethod
    def cost(self, encoding: Sequence[int], classes: int) -> Cost:
        """Return what the subnet costs for one picture at its resolution."""

    @abstractmethod
    def describe(self, encoding: Sequence[int]) -> str:
        """Return the choice for people, on one line."""

    def deployed(self, network: nn.Module) -> nn.Module:
        """Return a copy of a network of this space as it is handed out: folded, and making one tensor, named `output`."""
        return fold(network)

    def publish(self, network: nn.Module, class_names: Sequence[str], path: Path) -> bool:
        """Write a network as its family's own tools load it, and return whether the family has such a file."""
        return False

    def shared(self, classes: int) -> nn.Module:
        """Return the network whose weights all subnets are parts of: the largest, unless a space needs more."""
        return self.network(self.largest(), classes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Return how many choices each dimension has."""
        return tuple(len(one.choices) for one in self.dimensions)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {one.name: position for position, one in enumerate(self.dimensions)}

    def values(self, encoding: Sequence[int]) -> dict[str, Choice]:
        """Return the choice made in each dimension."""
        return {one.name: one.choices[index] for one, index in zip(self.dimensions, encoding, strict=True)}

    def effective(self, encoding: Sequence[int]) -> dict[str, Choice]:
        """Return the choices that have an effect on the subnet, by dimension."""
        values = self.values(self.canonical(encoding))
        without = set(self.unused(values))
        return {name: value for name, value in values.items() if name not in without}

    def encoded(self, values: Mapping[str, Choice]) -> Encoding:
        """Return the encoding of these choices; dimensions that are not named take their largest."""
        return self.canonical(
            [
                one.choices.index(values[one.name]) if one.name in values else -1 % len(one.choices)
                for one in self.dimensions
            ]
        )

    def resolution(self, encoding: Sequence[int]) -> int:
        """Return the pixels squared that the subnet takes."""
        position = self._positions[RESOLUTION]
        return int(self.dimensions[position].choices[encoding[position]])

    def canonical(self, encoding: Sequence[int]) -> Encoding:
        """Return the encoding with choices without effect at 0. Raises ValueError where it is not of this space."""
        sizes = self.sizes
        if len(encoding) != len(sizes) or any(
            not 0 <= value < size for value, size in zip(encoding, sizes, strict=True)
        ):
            raise ValueError(f"{list(encoding)} is not an encoding of space {self.name}")
        found = [int(value) for value in encoding]
        for name in self.unused(self.values(found)):
            found[self._positions[name]] = 0
        return tuple(found)

    def count(self) -> int:
        """Return how many different subnets there are.

        Exact where choices in one other dimension decide whether a dimension has an effect, as in all spaces here.
        """
        largest = [size - 1 for size in self.sizes]
        sizes, total = {one.name: len(one.choices) for one in self.dimensions}, 1
        for position, one in enumerate(self.dimensions):
            without = [
                set(self.unused(self.values([*largest[:position], choice, *largest[position + 1 :]])))
                for choice in range(len(one.choices))
            ]
            ruled = without[0].union(*without) - without[0].intersection(*without)
            if ruled:
                total *= sum(math.prod(sizes[name] for name in ruled - some) for some in without)
                for name in (one.name, *ruled):
                    sizes[name] = 1
        return total * math.prod(sizes.values())

    def smallest(self) -> Encoding:
        return self.canonical([0] * len(self.sizes))

    def largest(self) -> Encoding:
        return self.canonical([size - 1 for size in self.sizes])

    def sample(self, source: random.Random) -> Encoding:
        """Return a random choice, uniform in each dimension."""
        return self.canonical([source.randrange(size) for size in self.sizes])

    def mutate(self, encoding: Sequence[int], source: random.Random, rate: float = 0.1) -> Encoding:
        """Return the encoding with about this share of its dimensions drawn again."""
        return self.canonical(
            [
                source.randrange(size) if source.random() < rate else value
                for value, size in zip(encoding, self.sizes, strict=True)
            ]
        )

    def crossover(self, first: Sequence[int], second: Sequence[int], source: random.Random) -> Encoding:
        """Return a mix that takes each dimension from either parent."""
        return self.canonical([source.choice(pair) for pair in zip(first, second, strict=True)])

    def digest(self, encoding: Sequence[int]) -> str:
        """Return the name of a subnet: the same choices of the same space at the same size."""
        chosen = list(self.canonical(encoding))
        text = json.dumps([self.name, self.resolution_px, chosen])
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def one_hot(self, encodings: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return (n, sum of sizes): for each dimension a column for each choice, 0 throughout where it has no effect."""
        table = np.zeros((len(encodings), sum(self.sizes)))
        starts = np.cumsum([0, *self.sizes[:-1]])
        for row, encoding in enumerate(encodings):
            without = set(self.unused(self.values(encoding)))
            for dimension, start, value in zip(self.dimensions, starts, encoding, strict=True):
                if dimension.name not in without:
                    table[row, start + value] = 1.0
        return table


def resolutions(resolution_px: int, multiple: int) -> tuple[int, ...]:
    """Return pixels to choose from, the last of them `resolution_px`: about steps of an eighth, down to five eighths.

    Smaller ones than that are left out: weights that serve 8 and 16 pixels alike serve neither well.
    """
    steps = {round(resolution_px * share / multiple) * multiple for share in _SHARES}
    return (*sorted(step for step in steps if _LEAST_SHARE * resolution_px <= step < resolution_px), resolution_px)


def rounded(width: float, multiple: int = 4) -> int:
    """Return the nearest number of channels that engines handle well, at least one multiple."""
    return max(multiple, int(width / multiple + 0.5) * multiple)
