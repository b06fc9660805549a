"""Count what an exported YOLO costs, row by row, so that rows that subnets have in common are counted once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from milonga_hub.learning import ultralytics_offline  # noqa: F401  must come before ultralytics
from milonga_hub.learning.costs import Cost, traced
from milonga_hub.learning.sharing import valueless

# isort: split
from ultralytics.nn.modules import Concat, Detect
from ultralytics.nn.tasks import parse_model

from milonga_hub.learning.spaces.yolo_network import STRIDES

Shape = tuple[int, ...]


def deployed_cost(description: Mapping[str, Any], resolution_px: int) -> Cost:
    """Return what the exported network costs for one picture: without the second head and with merged kernels.

    It equals what tracing the whole network gives.
    """
    rows = description["backbone"] + description["head"]
    sources = [_sources(index, row[0]) for index, row in enumerate(rows)]
    last = {source: index for index, row in enumerate(sources) for source in row}
    head = json.dumps([description["nc"], description.get("reg_max", 16), _has_old_head(rows)])
    shapes: dict[int, Shape] = {-1: (1, 3, resolution_px, resolution_px)}
    total = Cost(0, 0, 0, 0, 0, 0)
    for index, row in enumerate(rows):
        wanted_later = tuple(last[source] > index for source in sources[index])
        into = tuple(shapes[source] for source in sources[index])
        cost, shapes[index] = _row(json.dumps(row[1:]), into, wanted_later, head if row[2] == "Detect" else "")
        beside = sum(math.prod(shapes[one]) for one in last if one < index < last[one] and one not in sources[index])
        total = total.then(replace(cost, peak_activations=cost.peak_activations + beside))
    return total


def _sources(index: int, source: int | Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of the rows that a row reads; -1 is the picture."""
    given = [source] if isinstance(source, int) else source
    return tuple(index + one if one < 0 else one for one in given)


def _has_old_head(rows: Sequence[Sequence[Any]]) -> bool:
    """Return what ultralytics' parser concludes from the modules (tasks.parse_model, "legacy")."""
    return not {"C3k2", "C2fCIB"} & {row[2] for row in rows}


@lru_cache(maxsize=65536)
def _row(row: str, into: tuple[Shape, ...], wanted_later: tuple[bool, ...], head: str) -> tuple[Cost, Shape]:
    """Return what one row costs and the shape that it makes; inputs that are wanted later stay alive."""
    with valueless():
        layer = _Row(_layer(json.loads(row), into, head), wanted_later)
        _fold(layer)
    cost, found = traced(layer, *into)
    return cost, tuple(found[0].shape)


def _layer(row: Sequence[Any], into: Sequence[Shape], head: str) -> nn.Module:
    if row[1] == "Concat":
        return Concat(*row[2])
    if row[1] != "Detect":
        return parse_model({"nc": 1, "backbone": [[-1, *row]], "head": []}, ch=into[0][1], verbose=False)[0][0]
    classes, bins, Detect.legacy = json.loads(head)
    layer = Detect(classes, bins, False, [shape[1] for shape in into])
    layer.stride = torch.tensor(STRIDES, device="cpu")
    layer.export = True
    return layer


def _fold(layer: nn.Module) -> None:
    """Give convolutions a bias in place of their normalisation and leave out kernels that are merged into larger ones."""
    for one in layer.modules():
        if type(one).__name__ == "RepVGGDW":
            one.forward = one.forward_fuse
            del one.conv1
        elif hasattr(one, "bn"):
            one.conv.bias = nn.Parameter(torch.empty(one.conv.out_channels))
            one.bn = nn.Identity()


class _Row(nn.Module):
    """A row that also returns those of its inputs that are wanted later."""

    def __init__(self, layer: nn.Module, wanted_later: Sequence[bool]) -> None:
        super().__init__()
        self.layer, self._wanted = layer, wanted_later

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        several = isinstance(self.layer, Concat | Detect)
        found = self.layer(list(inputs)) if several else self.layer(*inputs)
        return [found, *(one for one, wanted in zip(inputs, self._wanted, strict=True) if wanted)]
