"""The runtime of the engine "packed": loads what packed_backend.py built, and runs it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.runtimes.base import Floats, Runtime


class Packed(Runtime):
    def __init__(self, model: Path, threads: int) -> None:
        try:
            from onnx.reference import ReferenceEvaluator
        except ImportError as error:
            raise EngineMissing("onnx is not installed; run: pip install 'milonga-plugin-template[packed]'") from error
        try:
            self._evaluator = ReferenceEvaluator(gzip.decompress(model.read_bytes()))
        except Exception as error:  # gzip, protobuf and onnx raise their own.
            raise BadBundle(f"{model.name} cannot be loaded: {error}") from error
        described = self._evaluator.input_types_[0].tensor_type.shape.dim
        self._name = self._evaluator.input_names[0]
        self.input_shape = tuple(dimension.dim_value for dimension in described[1:])

    def run(self, inputs: Floats) -> Floats:
        return np.asarray(self._evaluator.run(None, {self._name: inputs})[0], dtype=np.float32)
