"""One network as a space of its own, so that what is trained alone is trained and counted by the same code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from milonga_hub.learning.costs import Cost
from milonga_hub.learning.spaces.base import RESOLUTION, Choice, Dimension, Encoding, Space

# What the published TANGO framework offers of a family: five levels of complexity.
_LEVELS = 5


class Fixed(Space):
    """The space that holds one subnet of another, and nothing else."""

    def __init__(self, family: Space, encoding: Sequence[int]) -> None:
        super().__init__(family.resolution_px)
        self.name = family.name  # type: ignore[misc]
        self.task = family.task  # type: ignore[misc]
        self._family, self._encoding = family, family.canonical(encoding)

    @property
    def family(self) -> Space:
        """Return the space that the network is of."""
        return self._family

    @property
    def encoding(self) -> Encoding:
        """Return which of that space's networks it is."""
        return self._encoding

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._family.settings, "fixed": list(self._encoding)}

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        return (Dimension(RESOLUTION, (self._family.resolution(self._encoding),)),)

    def unused(self, values: Mapping[str, Choice]) -> Iterable[str]:
        return ()

    def network(self, encoding: Sequence[int], classes: int) -> nn.Module:
        """Return the network, without marks: it shares nothing."""
        network = self._family.network(self._encoding, classes)
        for layer in network.modules():
            if hasattr(layer, "part"):
                del layer.part
        return network

    @property
    def output(self) -> str:  # type: ignore[override]
        return self._family.output

    def deployed(self, network: nn.Module) -> nn.Module:
        return self._family.deployed(network)

    def publish(self, network: nn.Module, class_names: Sequence[str], path: Path) -> bool:
        return self._family.publish(network, class_names, path)

    def cost(self, encoding: Sequence[int], classes: int) -> Cost:
        return self._family.cost(self._encoding, classes)

    def describe(self, encoding: Sequence[int]) -> str:
        return self._family.describe(self._encoding)

    def effective(self, encoding: Sequence[int]) -> dict[str, Choice]:
        return self._family.effective(self._encoding)

    def digest(self, encoding: Sequence[int]) -> str:
        return self._family.digest(self._encoding)


def levels(family: Space) -> list[Encoding]:
    """Return five fixed networks of a family, from the simplest to the most complex, at its full resolution.

    They are what a list of ready-made models offers, and the baselines that a search is held against. Stages and blocks grow
    alike; where a dimension has fewer choices than there are levels, kinds of dimensions (depth, width, ...) grow in turn.
    """
    kinds = list(dict.fromkeys(_kind(one) for one in family.dimensions if one.name != RESOLUTION))
    found = []
    for level in range(_LEVELS):
        share = level / (_LEVELS - 1)
        chosen = [
            size - 1
            if one.name == RESOLUTION
            else int(share * (size - 1) + (kinds.index(_kind(one)) + 0.5) / len(kinds))
            for one, size in zip(family.dimensions, family.sizes, strict=True)
        ]
        found.append(family.canonical(chosen))
    return found


def _kind(one: Dimension) -> str:
    return one.name.rpartition(".")[2]
