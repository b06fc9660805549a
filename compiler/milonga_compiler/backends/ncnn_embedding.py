"""The second output of embedding.py, for ncnn's own files: a text of layers, and their weights one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np

from milonga_compiler.embedding import DIMENSIONS, OUTPUT, signs

_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
# Before the weights of a layer: floats, as they are.
_PLAIN = b"\0\0\0\0"


@dataclass
class _Layer:
    """A line of the text: what it is, and which blobs it takes and makes."""

    kind: str
    name: str
    given: list[str]
    made: list[str]
    parameters: list[str]

    @classmethod
    def of(cls, line: str) -> _Layer:
        kind, name, given, made, *rest = line.split()
        middle = int(given)
        end = middle + int(made)
        return cls(kind, name, rest[:middle], rest[middle:end], rest[end:])

    def __str__(self) -> str:
        counts = [str(len(self.given)), str(len(self.made))]
        return " ".join([self.kind, self.name, *counts, *self.given, *self.made, *self.parameters])


def embed(param: Path, shape_of: Callable[[str], tuple[int, ...]]) -> bool:
    """Give a build the second output (DIMENSIONS,) of each picture; return False where it has no layer that could be told.

    `shape_of` tells of a blob what shape it has for a picture. Layers that were there keep their weights.
    """
    magic, _, *lines = param.read_text(encoding="utf-8").splitlines()
    layers = [_Layer.of(line) for line in lines if line.strip()]
    if any(OUTPUT in layer.made for layer in layers):
        return False
    found = _features(layers) or _last_map(layers, shape_of)
    if found is None:
        return False
    shape, blob = shape_of(found), _branch(layers, found)
    if len(shape) == 3:
        # 0=1: the mean, 4=1: of the whole map.
        pooled = f"{OUTPUT}_means"
        layers.append(_Layer("Pooling", pooled, [blob], [pooled], ["0=1", "4=1"]))
        blob = pooled
    # 0: outputs, 1: a bias or none, 2: weights.
    sizes = [f"0={DIMENSIONS}", "1=0", f"2={DIMENSIONS * shape[0]}"]
    layers.append(_Layer("InnerProduct", OUTPUT, [blob], [OUTPUT], sizes))
    blobs = sum(len(layer.made) for layer in layers)
    param.write_text("\n".join([magic, f"{len(layers)} {blobs}", *map(str, layers), ""]), encoding="utf-8")
    with param.with_suffix(".bin").open("ab") as weights:
        weights.write(_PLAIN + np.ascontiguousarray(signs(shape[0]).T, dtype="<f4").tobytes())
    return True


def _features(layers: list[_Layer]) -> str | None:
    """Return what the fully connected layer is given that makes the output; None where that comes of anything else."""
    last = layers[-1]
    return last.given[0] if last.kind == "InnerProduct" and len(last.given) == 1 else None


def _last_map(layers: list[_Layer], shape_of: Callable[[str], tuple[int, ...]]) -> str | None:
    """Return the last map of a detector that more than one convolution is given: there its branches begin."""
    if len(shape_of(layers[-1].made[0])) != 2:
        return None
    readers = {blob: layer.kind for layer in layers for blob in layer.given}
    for layer in reversed(layers):
        reading = [readers.get(blob, "") for blob in layer.made]
        if layer.kind == "Split" and sum(kind in _CONVOLUTIONS for kind in reading) > 1:
            return layer.given[0]
    return None


def _branch(layers: list[_Layer], blob: str) -> str:
    """Return another blob of the same values: each is taken once, and several readers take those of a split."""
    place, reader = next((place, layer) for place, layer in enumerate(layers) if blob in layer.given)
    mine = f"{OUTPUT}_features"
    if reader.kind == "Split":
        reader.made.append(mine)
        return mine
    others = f"{OUTPUT}_others"
    reader.given[reader.given.index(blob)] = others
    layers.insert(place, _Layer("Split", f"{OUTPUT}_split", [blob], [others, mine], []))
    return mine
