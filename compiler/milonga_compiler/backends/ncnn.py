"""ncnn: a text file of layers and a file of weights, converted by pnnx.

int8 is left out: the programs that make it (ncnn2table, ncnn2int8) are not in the packages.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.engines import Precision
from milonga_compiler.errors import RunFailed, UnsupportedOperators
from milonga_compiler.network import Network
from milonga_compiler.pnnx import convert, onnx_name


class NcnnBackend(Backend):
    name = "ncnn"

    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        # The runtime reads the precision from the name: ncnn's files do not tell which numbers to compute in.
        param, weights = (f"model.{precision}.{kind}" for kind in ("param", "bin"))
        with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
            converted = _converted(network, Path(scratch), half=precision is Precision.FP16)
            (folder / param).write_text(_with_shape(converted.read_text(encoding="utf-8"), network), encoding="utf-8")
            shutil.copyfile(str(converted.with_suffix(".bin")), str(folder / weights))
        yield BuiltModel(param, [param, weights])

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        import ncnn

        network = ncnn.Net()
        network.opt.use_vulkan_compute = False
        network.opt.num_threads = threads
        half = model_file.name.endswith(".fp16.param")
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic"):
            setattr(network.opt, f"use_{option}", half)
        weights = model_file.with_suffix(".bin")
        if network.load_param(str(model_file)) or network.load_model(str(weights)):
            raise RunFailed(f"ncnn {ncnn.__version__} cannot load {model_file.name}")
        outputs = []
        for picture in inputs:
            extractor = network.create_extractor()
            extractor.input(network.input_names()[0], ncnn.Mat(np.ascontiguousarray(picture)))
            failed, output = extractor.extract(network.output_names()[0])
            if failed:
                raise RunFailed(f"ncnn {ncnn.__version__} stopped with {failed} in {model_file.name}")
            outputs.append(np.array(output, dtype=np.float32))
        return np.stack(outputs)

    def _accept(self, network: Network, scratch: Path) -> None:
        _converted(network, scratch)


def _converted(network: Network, scratch: Path, half: bool = False) -> Path:
    """Return the .param file, its .bin beside it. Raises UnsupportedOperators or BuildFailed."""
    param = convert(network, scratch, half)
    # What ncnn has no layer for keeps its name in PyTorch, such as torch.topk.
    unknown = sorted({onnx_name(kind, network) for kind in _layers(param) if "." in kind or "::" in kind})
    if unknown:
        raise UnsupportedOperators(f"ncnn has no layers for the operators {', '.join(unknown)}", unknown)
    return param


def _layers(param: Path) -> list[str]:
    """Return the types of all layers: the first word of each line after the magic number and the counts."""
    return [line.split()[0] for line in param.read_text(encoding="utf-8").splitlines()[2:] if line.strip()]


def _with_shape(param: str, network: Network) -> str:
    """Return the text with the size of the picture in its input layer, which pnnx leaves out; the runtime reads it."""
    channels, height, width = network.shape
    return re.sub(r"(?m)^(Input\s.*?)\s*$", rf"\1 0={width} 1={height} 2={channels}", param, count=1)
