"""TensorRT on an NVIDIA GPU: an engine file that this device built for itself. Not seen running on hardware yet."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.runtimes.base import Floats, Runtime


class TensorRt(Runtime):
    """Fixed buffers on the GPU for one picture; `threads` has no meaning there."""

    def __init__(self, model: Path, threads: int) -> None:
        try:
            tensorrt = _library()
            from cuda.bindings import runtime
        except ImportError as error:
            raise EngineMissing("tensorrt is not installed; run: pip install 'milonga-agent[tensorrt]'") from error
        self._cuda: Any = runtime
        self._logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        engine = tensorrt.Runtime(self._logger).deserialize_cuda_engine(model.read_bytes())
        if engine is None:
            raise BadBundle(
                f"tensorrt {tensorrt.__version__} cannot load {model.name}; an engine file fits only the GPU and the"
                " version that it was built with: build it again on this device"
            )
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._given = next(n for n in names if engine.get_tensor_mode(n) == tensorrt.TensorIOMode.INPUT)
        self._asked = next(name for name in names if name != self._given)
        self._arrays = {name: np.zeros(tuple(engine.get_tensor_shape(name)), dtype=np.float32) for name in names}
        self.input_shape = tuple(self._arrays[self._given].shape[1:])
        self._engine, self._context = engine, engine.create_execution_context()
        self._stream = self._checked(runtime.cudaStreamCreate())
        self._memory = {name: self._checked(runtime.cudaMalloc(a.nbytes)) for name, a in self._arrays.items()}
        for name, pointer in self._memory.items():
            self._context.set_tensor_address(name, int(pointer))

    def run(self, inputs: Floats) -> Floats:
        return np.concatenate([self._one(picture) for picture in inputs])

    def _one(self, picture: Floats) -> Floats:
        down = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        up = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        given, asked = self._arrays[self._given], self._arrays[self._asked]
        given[0] = picture
        self._checked(self._cuda.cudaMemcpy(self._memory[self._given], given.ctypes.data, given.nbytes, down))
        if not self._context.execute_async_v3(int(self._stream)):
            raise RuntimeError("TensorRT could not run the engine; its reasons are in the log")
        self._checked(self._cuda.cudaStreamSynchronize(self._stream))
        self._checked(self._cuda.cudaMemcpy(asked.ctypes.data, self._memory[self._asked], asked.nbytes, up))
        return asked.copy()

    def _checked(self, answer: Any) -> Any:
        """Return what a CUDA call gave. Raises RuntimeError where it reports an error."""
        error, *values = answer
        if int(error):
            raise RuntimeError(f"CUDA: {error.name}")
        return values[0] if values else None


def _library() -> Any:
    """Return tensorrt, or TensorRT-RTX where only that is installed: what runs an engine is the same."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError:
        return importlib.import_module("tensorrt_rtx")
