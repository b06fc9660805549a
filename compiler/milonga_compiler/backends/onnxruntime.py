"""ONNX Runtime: fp32 as it is, fp16 with weights in half the bytes, int8 calibrated on the user's pictures."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.embedding import embed
from milonga_compiler.engines import Precision
from milonga_compiler.errors import BuildFailed, UnsupportedOperators
from milonga_compiler.network import Network, copy_whole

# Bounds the memory of activations; results do not depend on it.
_BATCH = 64
# How it names what it does not know: an operator without a schema, in this opset or at all, or a schema without a kernel; the first one only.
_UNKNOWN = re.compile(
    r"(?:Fatal error: (?P<domain>[\w.]*):(?P<name>\w+)\(-?\d+\) is not a registered)"
    r"|(?:No Op registered for (?P<absent>\w+) with)"
    r"|(?:Could not find an implementation for (?P<kernel>\w+))"
)


class OnnxRuntimeBackend(Backend):
    name = "onnxruntime"

    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        self.session(network.path, 1)  # What it cannot load is refused here, by name.
        if precision is Precision.FP16:
            halved(network.path, folder / "model.onnx")
            return [BuiltModel("model.onnx", ["model.onnx"])]
        if precision is Precision.FP32 or calibration is None:
            copy_whole(network, folder / "model.onnx")
            return [BuiltModel("model.onnx", ["model.onnx"])]
        from milonga_compiler.quantize import quantize_variants

        return quantize_variants(network.path, folder, calibration)

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        return self.outputs(model_file, inputs, threads)[0]

    def outputs(self, model_file: Path, inputs: Floats, threads: int) -> list[Floats]:
        session = self.session(model_file, threads)
        name = session.get_inputs()[0].name
        parts = [session.run(None, {name: inputs[start : start + _BATCH]}) for start in range(0, len(inputs), _BATCH)]
        return [np.concatenate(each).astype(np.float32) for each in zip(*parts)]

    def embed(self, model_file: Path) -> bool:
        return embed(model_file)

    def _accept(self, network: Network, scratch: Path) -> None:
        self.session(network.path, 1)

    def session(self, path: Path, threads: int) -> Any:
        """Return the loaded model. Raises UnsupportedOperators or BuildFailed."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # As devices do: threads that look for work without a pause keep the core from other jobs of the hub.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many kinds, none of them public.
            unknown = _UNKNOWN.search(str(error))
            if unknown:
                name = ".".join(
                    part
                    for part in (unknown["domain"], unknown["name"] or unknown["absent"] or unknown["kernel"])
                    if part
                )
                message = f"ONNX Runtime {onnxruntime.__version__} does not know the operator {name}"
                raise UnsupportedOperators(message, [name]) from error
            raise BuildFailed(f"ONNX Runtime {onnxruntime.__version__} cannot load the network: {error}") from error


def halved(source: Path, to: Path) -> None:
    """Write the network with weights and layers in fp16, its inputs and outputs in fp32 as before.

    Processors with half-precision arithmetic (ARMv8.2 and later) compute in it. Elsewhere ONNX Runtime widens the numbers as it
    loads them: the file is half as large, and nothing is faster. Raises BuildFailed where it cannot be converted.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        # Weights beyond fp16's range are cut off with a warning; the gate judges the outputs.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
        onnx.save_model(model, str(to))
    except Exception as error:  # The converter raises what it likes.
        raise BuildFailed(f"the network cannot be converted to fp16: {error}") from error
