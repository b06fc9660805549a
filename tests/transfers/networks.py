"""ONNX files with weights of the kinds that deltas are made for, each a few tens of kilobytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

Weights = Mapping[str, NDArray[Any]]


def weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return three convolutions and a matrix, as training leaves them."""
    source = np.random.default_rng(seed)
    shapes = {"a.weight": (24, 16, 3, 3), "b.weight": (32, 24, 5, 5), "c.weight": (16, 32, 1, 1), "d.weight": (32, 10)}
    return {name: source.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}


def retrained(known: Weights, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """Return the weights a little further on."""
    source = np.random.default_rng(seed)
    return {name: (one + source.normal(0, 1e-4, one.shape)).astype(np.float32) for name, one in known.items()}


def write(path: Path, known: Weights) -> Path:
    """Write a network that has these weights. It computes nothing: deltas do not run it."""
    one = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    held = [numpy_helper.from_array(value, name) for name, value in known.items()]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "network", one[:1], one[1:], held)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph), str(path))
    return path
