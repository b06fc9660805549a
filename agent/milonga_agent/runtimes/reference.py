"""onnx's own reference evaluator: slow, needs nothing but numpy, and right by definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.runtimes.base import Floats, Runtime


class Reference(Runtime):
    def __init__(self, model: Path, threads: int) -> None:
        try:
            from onnx.reference import ReferenceEvaluator
        except ImportError as error:
            raise EngineMissing("onnx is not installed; run: pip install 'milonga-agent[reference]'") from error
        try:
            self._evaluator = ReferenceEvaluator(str(model))
        except Exception as error:  # onnx raises protobuf's and its own errors.
            raise BadBundle(f"onnx cannot load {model.name}: {error}") from error
        described = self._evaluator.input_types_[0].tensor_type.shape.dim
        self._name = self._evaluator.input_names[0]
        self.input_shape = tuple(dimension.dim_value for dimension in described[1:])

    def run(self, inputs: Floats) -> Floats:
        return self.run_embedding(inputs)[0]

    def run_embedding(self, inputs: Floats) -> tuple[Floats, Floats | None]:
        first, *more = self._evaluator.run(None, {self._name: inputs})
        return np.asarray(first, dtype=np.float32), np.asarray(more[0], dtype=np.float32) if more else None
