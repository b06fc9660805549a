"""Spaces: what may vary in a supernet, and how one choice is written down.

An encoding is a list of integers, one for each elastic dimension, each an index into that dimension's choices. Blocks that
a choice of depth leaves out are encoded as 0, so that equal subnets have equal encodings.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

Encoding = tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """Up to `max_depth` inverted residual blocks with `width` output channels."""

    width: int
    max_depth: int


@dataclass(frozen=True)
class Block:
    """One block of a subnet. The hidden layer has expand * in_width channels."""

    stage: int
    index: int
    in_width: int
    width: int
    expand: int
    kernel: int
    stride: int

    @property
    def hidden(self) -> int:
        return self.in_width * self.expand

    @property
    def residual(self) -> bool:
        """Whether the block adds to its input."""
        return self.stride == 1 and self.in_width == self.width


@dataclass(frozen=True)
class Shape:
    """Where a network halves its picture: strides of the stem's layers and of each stage's first block."""

    stem: tuple[int, ...]
    stages: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """What a subnet costs for one picture, from its shape alone. `peak_activations` counts values alive at once."""

    macs: int
    params: int
    activations: int
    peak_activations: int
    layers: int
    depthwise_macs: int


@dataclass(frozen=True)
class Space:
    """MobileNetV3-like (Howard 2019) with elastic depth, width (expansion) and kernel, as in once-for-all (Cai 2020).

    Activations are ReLU and there is no squeeze-and-excite: both alternatives are slower in int8 on common processors.
    """

    name: str
    stem_width: int
    stages: tuple[Stage, ...]
    head_width: int
    expands: tuple[int, ...]
    kernels: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return how many choices each dimension has: for each stage its depth, then expand and kernel of each block."""
        sizes: list[int] = []
        for stage in self.stages:
            sizes.append(stage.max_depth)
            sizes += [len(self.expands), len(self.kernels)] * stage.max_depth
        return tuple(sizes)

    def canonical(self, encoding: Sequence[int]) -> Encoding:
        """Return the encoding with unused blocks at 0. Raises ValueError where it is not of this space."""
        sizes = self.sizes
        if len(encoding) != len(sizes) or any(
            not 0 <= value < size for value, size in zip(encoding, sizes, strict=True)
        ):
            raise ValueError(f"{list(encoding)} is not an encoding of space {self.name}")
        result: list[int] = []
        position = 0
        for stage in self.stages:
            depth = encoding[position] + 1
            result.append(encoding[position])
            for block in range(stage.max_depth):
                start = position + 1 + 2 * block
                result += encoding[start : start + 2] if block < depth else (0, 0)
            position += 1 + 2 * stage.max_depth
        return tuple(result)

    def smallest(self) -> Encoding:
        return tuple(0 for _ in self.sizes)

    def largest(self) -> Encoding:
        return tuple(size - 1 for size in self.sizes)

    def sample(self, source: random.Random) -> Encoding:
        """Return a random choice, uniform in each dimension."""
        return self.canonical([source.randrange(size) for size in self.sizes])

    def mutate(self, encoding: Encoding, source: random.Random, rate: float = 0.1) -> Encoding:
        """Return the encoding with about this share of its dimensions drawn again."""
        drawn = [
            source.randrange(size) if source.random() < rate else value
            for value, size in zip(encoding, self.sizes, strict=True)
        ]
        return self.canonical(drawn)

    def crossover(self, first: Encoding, second: Encoding, source: random.Random) -> Encoding:
        """Return a mix that takes each dimension from either parent."""
        return self.canonical([source.choice(pair) for pair in zip(first, second, strict=True)])

    def blocks(self, encoding: Sequence[int], shape: Shape) -> list[Block]:
        """Return the blocks of a subnet, in order."""
        encoding = self.canonical(encoding)
        blocks: list[Block] = []
        position, in_width = 0, self.stem_width
        for number, stage in enumerate(self.stages):
            for index in range(encoding[position] + 1):
                expand, kernel = encoding[position + 1 + 2 * index], encoding[position + 2 + 2 * index]
                stride = shape.stages[number] if index == 0 else 1
                blocks.append(
                    Block(number, index, in_width, stage.width, self.expands[expand], self.kernels[kernel], stride)
                )
                in_width = stage.width
            position += 1 + 2 * stage.max_depth
        return blocks

    def shape(self, resolution_px: int) -> Shape:
        """Return strides that bring a picture of this size down to 4 to 7 pixels before pooling."""
        halvings = max(0, (resolution_px // 4).bit_length() - 1)
        # Late stages first: there halving costs the least detail.
        stages = [1] * len(self.stages)
        for number in range(len(self.stages) - 1, 0, -1):
            if halvings > 0:
                stages[number] = 2
                halvings -= 1
        stem = [2] if halvings > 0 else [1]
        halvings -= stem[0] == 2
        if halvings > 0:
            stages[0] = 2
            halvings -= 1
        stem += [2] * max(0, halvings)
        return Shape(tuple(stem), tuple(stages))

    def cost(self, encoding: Sequence[int], resolution_px: int, classes: int) -> Cost:
        """Return what a subnet costs for one picture of resolution_px squared."""
        shape = self.shape(resolution_px)
        counter = _Counter(resolution_px)
        width = 3
        for stride in shape.stem:
            counter.convolution(width, self.stem_width, 3, stride)
            width = self.stem_width
        for block in self.blocks(encoding, shape):
            if block.expand > 1:
                counter.convolution(block.in_width, block.hidden, 1, 1)
            counter.depthwise(block.hidden, block.kernel, block.stride)
            counter.convolution(block.hidden, block.width, 1, 1)
            width = block.width
        counter.convolution(width, self.head_width, 1, 1)
        return counter.total(self.head_width, classes)

    def digest(self, encoding: Sequence[int], resolution_px: int) -> str:
        """Return the name of a subnet: the same choice of the same space at the same size."""
        text = json.dumps([self.name, resolution_px, list(self.canonical(encoding))])
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def describe(self, encoding: Sequence[int]) -> str:
        """Return the choice for people: blocks of each stage as expansion x kernel."""
        shape = Shape((1,), tuple(1 for _ in self.stages))
        stages: list[list[str]] = [[] for _ in self.stages]
        for block in self.blocks(encoding, shape):
            stages[block.stage].append(f"{block.expand}x{block.kernel}")
        return " | ".join(" ".join(stage) for stage in stages)


class _Counter:
    def __init__(self, size_px: int) -> None:
        self._size = size_px
        self._values = 3 * size_px * size_px
        self._macs = self._params = self._depthwise = self._layers = 0
        self._activations = self._peak = 0

    def convolution(self, in_width: int, width: int, kernel: int, stride: int) -> None:
        self._layer(in_width * width * kernel * kernel, width, stride)

    def depthwise(self, width: int, kernel: int, stride: int) -> None:
        before = self._macs
        self._layer(width * kernel * kernel, width, stride)
        self._depthwise += self._macs - before

    def _layer(self, weights: int, width: int, stride: int) -> None:
        self._size = (self._size + stride - 1) // stride
        values = width * self._size * self._size
        self._macs += weights * self._size * self._size
        # Batch normalisation is folded into a bias.
        self._params += weights + width
        self._activations += values
        self._peak = max(self._peak, self._values + values)
        self._values = values
        self._layers += 1

    def total(self, features: int, classes: int) -> Cost:
        linear = features * classes
        return Cost(
            macs=self._macs + linear,
            params=self._params + linear + classes,
            activations=self._activations,
            peak_activations=self._peak,
            layers=self._layers + 1,
            depthwise_macs=self._depthwise,
        )


SPACES = {
    "mbv3": Space(
        name="mbv3",
        stem_width=16,
        stages=(Stage(16, 3), Stage(32, 3), Stage(64, 3)),
        head_width=128,
        expands=(1, 2, 4),
        kernels=(3, 5),
    )
}


def space(name: str) -> Space:
    """Return the space of that name. Raises ValueError naming the known ones."""
    if name not in SPACES:
        raise ValueError(f"there is no space {name!r}; there are: {', '.join(SPACES)}")
    return SPACES[name]
