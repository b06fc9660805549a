"""ONNX Runtime: fp32 as it is, int8 calibrated on the user's pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.errors import BuildFailed, EngineMissing
from milonga_compiler.target import Target

# Bounds the memory of activations; results do not depend on it.
_BATCH = 64


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineMissing("onnxruntime is not installed; run: pip install 'milonga-compiler[onnxruntime]'") from error
    return onnxruntime


class OnnxRuntimeBackend(Backend):
    name = "onnxruntime"
    # Opset 17 and per-channel QDQ.
    requirement = ">=1.17"
    verification = "verified on x86-64; not verified on hardware elsewhere"

    def __init__(self) -> None:
        self._ort = _onnxruntime()

    def build(self, onnx_path: Path, target: Target, folder: Path, calibration: Floats | None) -> Iterable[BuiltModel]:
        if target.precision == "fp32":
            shutil.copyfile(onnx_path, folder / "model.onnx")
            return [BuiltModel("model.onnx", ["model.onnx"])]
        if calibration is None or not len(calibration):
            raise BuildFailed("int8 needs pictures to calibrate on; give some, for example 100 of the training set")
        from milonga_compiler.quantize import quantize_variants

        return quantize_variants(onnx_path, folder, calibration)

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = self._ort.InferenceSession(str(model_file), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        parts = [
            session.run(None, {name: inputs[start : start + _BATCH]})[0] for start in range(0, len(inputs), _BATCH)
        ]
        return np.concatenate(parts).astype(np.float32)
