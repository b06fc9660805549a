"""onnx's own reference evaluator: slow, and right by definition. What every other engine is compared with."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.target import Target


class ReferenceBackend(Backend):
    name = "reference"
    requirement = ">=1.16"
    verification = "verified"

    def build(self, onnx_path: Path, target: Target, folder: Path, calibration: Floats | None) -> Iterable[BuiltModel]:
        shutil.copyfile(onnx_path, folder / "model.onnx")
        return [BuiltModel("model.onnx", ["model.onnx"])]

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        (logits,) = ReferenceEvaluator(str(model_file)).run(None, {"image": inputs})
        return np.asarray(logits, dtype=np.float32)
