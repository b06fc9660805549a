"""ncnn: a text file of layers and a file of weights, converted by pnnx.

int8 is left out: the programs that make it (ncnn2table, ncnn2int8) are not in the packages.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.backends.ncnn_embedding import embed
from milonga_compiler.engines import Precision
from milonga_compiler.errors import RunFailed, UnsupportedOperators
from milonga_compiler.network import Network
from milonga_compiler.pnnx import convert, onnx_name

_SHAPE = re.compile(r"(?m)^Input\s.* 0=(\d+) 1=(\d+) 2=(\d+)")


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
        return self.outputs(model_file, inputs, threads)[0]

    def outputs(self, model_file: Path, inputs: Floats, threads: int) -> list[Floats]:
        network = _loaded(model_file, threads)
        found = []
        for picture in inputs:
            extractor = _asked(network, picture)
            found.append([_extracted(extractor, name, model_file) for name in network.output_names()])
        return [np.stack(each) for each in zip(*found)]

    def embed(self, model_file: Path) -> bool:
        network = _loaded(model_file, 1)
        described = _SHAPE.search(model_file.read_text(encoding="utf-8"))
        assert described is not None, "the text is as it was written above"
        width, height, channels = map(int, described.groups())
        blank = np.zeros((channels, height, width), dtype=np.float32)
        return embed(model_file, lambda blob: _extracted(_asked(network, blank), blob, model_file).shape)

    def _accept(self, network: Network, scratch: Path) -> None:
        _converted(network, scratch)


def _loaded(model_file: Path, threads: int) -> Any:
    import ncnn

    network = ncnn.Net()
    network.opt.use_vulkan_compute = False
    network.opt.num_threads = threads
    half = model_file.name.endswith(".fp16.param")
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic"):
        setattr(network.opt, f"use_{option}", half)
    if network.load_param(str(model_file)) or network.load_model(str(model_file.with_suffix(".bin"))):
        raise RunFailed(f"ncnn {ncnn.__version__} cannot load {model_file.name}")
    return network


def _asked(network: Any, picture: Floats) -> Any:
    """Return what gives the blobs of one picture, each computed once."""
    import ncnn

    extractor = network.create_extractor()
    extractor.input(network.input_names()[0], ncnn.Mat(np.ascontiguousarray(picture)))
    return extractor


def _extracted(extractor: Any, blob: str, model_file: Path) -> Floats:
    failed, output = extractor.extract(blob)
    if failed:
        raise RunFailed(f"ncnn stopped with {failed} in {model_file.name}")
    return np.array(output, dtype=np.float32)


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
