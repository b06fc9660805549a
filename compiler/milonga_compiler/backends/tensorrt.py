"""TensorRT: an engine file for one GPU and one version, so each device builds its own (`milonga-compiler build` there).

Networks are strongly typed: precision stands in the ONNX file (half-precision weights, or QuantizeLinear pairs), which
TensorRT 10, 11 and RTX read alike; the older builder flags and calibrators are gone from the newer ones. Parser and builder
are tested with TensorRT-RTX, which builds without a GPU; running has not been seen on a Jetson.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.engines import Precision
from milonga_compiler.errors import BuildFailed, CannotRunHere, RunFailed, UnsupportedOperators
from milonga_compiler.network import Network, fix_batch

# What the builder may use for trying out kernels. An Orin Nano has 8 GB for everything.
_WORKSPACE_BYTES = 1 << 30


class TensorRtBackend(Backend):
    name = "tensorrt"

    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
            typed_files = _typed(network, precision, Path(scratch), calibration)
            for number, (typed, note) in enumerate(typed_files):
                name = f"model-{number}.engine"
                (folder / name).write_bytes(_built(typed, network))
                yield BuiltModel(name, [name], note)

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        if not _has_gpu():
            raise CannotRunHere("a TensorRT engine runs on the GPU that it was built on, and this machine has none")
        trt = _library()
        engine = trt.Runtime(_logger(trt)).deserialize_cuda_engine(model_file.read_bytes())
        if engine is None:
            raise RunFailed(
                f"TensorRT {trt.__version__} cannot load {model_file.name}: it is for another GPU or version"
            )
        return _executed(engine, inputs)

    def _accept(self, network: Network, scratch: Path) -> None:
        trt = _library()
        _parsed(trt, trt.Builder(_logger(trt)), fix_batch(network, scratch), network)


def _library() -> Any:
    """Return tensorrt, or TensorRT-RTX where only that is installed: parser, network and builder are the same."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError:
        return importlib.import_module("tensorrt_rtx")


def _logger(trt: Any) -> Any:
    return trt.Logger(trt.Logger.WARNING)


def _typed(
    network: Network, precision: Precision, scratch: Path, calibration: Floats | None
) -> Iterator[tuple[Path, str]]:
    """Yield ONNX files that hold the precision themselves, each with how it was calibrated."""
    if precision is Precision.INT8 and calibration is not None:
        from milonga_compiler.quantize import quantize_variants

        for variant in quantize_variants(network.path, scratch, calibration, symmetric=True):
            yield fix_batch(replace(network, path=scratch / variant.model_file), scratch), variant.note
        return
    if precision is Precision.FP16:
        from milonga_compiler.backends.onnxruntime import halved

        halved(network.path, scratch / "half.onnx")
        network = replace(network, path=scratch / "half.onnx")
    yield fix_batch(network, scratch), ""


def _parsed(trt: Any, builder: Any, path: Path, network: Network) -> Any:
    """Return TensorRT's network of the file, which was made of `network`. Raises UnsupportedOperators or BuildFailed."""
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    made = builder.create_network(flags)
    parser = trt.OnnxParser(made, _logger(trt))
    if parser.parse_from_file(str(path)):
        return made
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    names = sorted({network.full_name(error.node_operator()) for error in errors if _is_unknown(error)})
    if names:
        message = f"TensorRT {trt.__version__} does not know the operators {', '.join(names)}"
        raise UnsupportedOperators(message, names)
    raise BuildFailed(f"TensorRT {trt.__version__} cannot read the network: {'; '.join(e.desc() for e in errors)}")


def _is_unknown(error: Any) -> bool:
    """Return whether TensorRT has no such operator: it looks for a plug-in of the name then, or says so."""
    return str(error.code()).endswith("UNSUPPORTED_NODE") or "Plugin not found" in error.desc()


def _built(path: Path, network: Network) -> bytes:
    trt = _library()
    builder = trt.Builder(_logger(trt))
    made = _parsed(trt, builder, path, network)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    # fp32 means fp32: TF32 keeps 10 bits of the mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    engine = builder.build_serialized_network(made, config)
    if engine is None:
        raise BuildFailed(f"TensorRT {trt.__version__} built no engine; its reasons are in the log of the build")
    return bytes(engine)


def _has_gpu() -> bool:
    return any(Path(node).exists() for node in ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0"))


def _executed(engine: Any, inputs: Floats) -> Floats:
    """Return the first output (n, ...), one picture at a time."""
    from cuda.bindings import runtime as cuda

    trt = _library()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    given = next(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    asked = [name for name in names if name != given]
    arrays = {name: np.empty(tuple(engine.get_tensor_shape(name)), dtype=np.float32) for name in names}
    context, stream = engine.create_execution_context(), _checked(cuda.cudaStreamCreate())
    memory = {name: _checked(cuda.cudaMalloc(array.nbytes)) for name, array in arrays.items()}
    try:
        for name, pointer in memory.items():
            context.set_tensor_address(name, int(pointer))
        outputs, first = [], arrays[asked[0]]
        for picture in inputs:
            arrays[given][0] = picture
            host = arrays[given]
            down, up = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            _checked(cuda.cudaMemcpy(memory[given], host.ctypes.data, host.nbytes, down))
            if not context.execute_async_v3(int(stream)):
                raise RunFailed("TensorRT could not run the engine; its reasons are in the log")
            _checked(cuda.cudaStreamSynchronize(stream))
            _checked(cuda.cudaMemcpy(first.ctypes.data, memory[asked[0]], first.nbytes, up))
            outputs.append(first.copy())
        return np.concatenate(outputs)
    finally:
        for pointer in memory.values():
            cuda.cudaFree(pointer)
        cuda.cudaStreamDestroy(stream)


def _checked(answer: tuple[Any, ...]) -> Any:
    """Return what a CUDA call gave. Raises RunFailed where it reports an error."""
    error, *values = answer
    if int(error):
        raise RunFailed(f"CUDA: {error.name}")
    return values[0] if values else None
