"""OpenVINO on the processor: its own IR, or ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.runtimes.base import Floats, Runtime

# Where a build says in which numbers to compute, as the compiler writes it; plain ONNX computes as it is written.
_RT_INFO = ["milonga", "inference_precision"]


class OpenVino(Runtime):
    def __init__(self, model: Path, threads: int) -> None:
        try:
            import openvino
        except ImportError as error:
            raise EngineMissing("openvino is not installed; run: pip install 'milonga-agent[openvino]'") from error
        # No pinning of its own: the agent chooses the cores.
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        try:
            core = openvino.Core()
            read = core.read_model(str(model))
            if read.has_rt_info(_RT_INFO):
                options["INFERENCE_PRECISION_HINT"] = read.get_rt_info(_RT_INFO).value
            elif model.suffix != ".xml":
                options["INFERENCE_PRECISION_HINT"] = "f32"
            self._model = core.compile_model(read, "CPU", options)
        except RuntimeError as error:
            raise BadBundle(f"openvino {openvino.__version__} cannot load {model.name}: {error}") from error
        shape = read.inputs[0].get_partial_shape()
        self.input_shape = tuple(axis.get_length() if axis.is_static else None for axis in list(shape)[1:])

    def run(self, inputs: Floats) -> Floats:
        return self.run_embedding(inputs)[0]

    def run_embedding(self, inputs: Floats) -> tuple[Floats, Floats | None]:
        first, *more = (np.array(output, dtype=np.float32) for output in self._model(inputs).to_tuple())
        return first, more[0] if more else None
