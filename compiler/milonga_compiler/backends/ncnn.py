"""ncnn: converted by pnnx, a program of its own that reads ONNX and needs none of its Python dependencies.

int8 is left out: the programs that make it (ncnn2table, ncnn2int8) are not in the packages.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.engines import Precision
from milonga_compiler.errors import BuildFailed, RunFailed, UnsupportedOperators
from milonga_compiler.network import Network, fix_batch

_UNKNOWN = re.compile(r"unexpected op_type (?P<name>\w+)|op: (?P<domain>[\w.]+):(?P<other>\w+)")


class NcnnBackend(Backend):
    name = "ncnn"

    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        # The runtime reads the precision from the name: ncnn's files do not tell which numbers to compute in.
        param, weights = (f"model.{precision}.{kind}" for kind in ("param", "bin"))
        with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
            converted = _convert(network, precision, Path(scratch))
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

    def unsupported(self, network: Network) -> frozenset[str]:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                _convert(network, Precision.FP32, Path(scratch))
            except UnsupportedOperators as error:
                return frozenset(error.operators)
        return frozenset()


def _convert(network: Network, precision: Precision, scratch: Path) -> Path:
    """Return the .param file that pnnx made, its .bin beside it. Raises UnsupportedOperators or BuildFailed."""
    package = importlib.util.find_spec("pnnx")
    assert package is not None and package.submodule_search_locations, "the interpreter was chosen for having it"
    program = Path(package.submodule_search_locations[0]) / "pnnx"
    model = fix_batch(network, scratch)
    shape = ",".join(map(str, (1, *network.shape)))
    converted = scratch / "converted.param"
    files = [f"ncnnparam={converted.name}", f"ncnnbin={converted.with_suffix('.bin').name}"]
    options = [f"inputshape=[{shape}]", f"fp16={int(precision is Precision.FP16)}", *files]
    done = subprocess.run([str(program), model.name, *options], cwd=str(scratch), capture_output=True, text=True)
    said = done.stdout + done.stderr
    print(said)
    if not converted.exists():
        raise _refused(said, network, done.returncode)
    unknown = sorted({_onnx_name(kind, network) for kind in _layers(converted) if "." in kind or "::" in kind})
    if unknown:
        raise UnsupportedOperators(f"ncnn has no layers for the operators {', '.join(unknown)}", unknown)
    return converted


def _refused(said: str, network: Network, code: int) -> BuildFailed:
    """pnnx prints what it does not know, and goes on until it crashes."""
    names = {_onnx_name(found["name"] or found["other"], network) for found in _UNKNOWN.finditer(said)}
    if names:
        return UnsupportedOperators(f"pnnx does not know the operators {', '.join(sorted(names))}", sorted(names))
    last = " | ".join(line.strip() for line in said.splitlines()[-3:])
    return BuildFailed(f"pnnx cannot convert the network (exit code {code}); it last said: {last}")


def _layers(param: Path) -> list[str]:
    """Return the types of all layers: the first word of each line after the magic number and the counts."""
    return [line.split()[0] for line in param.read_text(encoding="utf-8").splitlines()[2:] if line.strip()]


def _onnx_name(kind: str, network: Network) -> str:
    """Return the network's own name of an operator that pnnx calls torch.einsum, F.gelu or Gelu."""
    plain = re.split(r"[.:]+", kind)[-1].replace("_", "").lower()
    return next((name for name in sorted(network.operators) if name.rpartition(".")[2].lower() == plain), kind)


def _with_shape(param: str, network: Network) -> str:
    """Return the text with the size of the picture in its input layer, which pnnx leaves out; the runtime reads it."""
    channels, height, width = network.shape
    return re.sub(r"(?m)^(Input\s.*?)\s*$", rf"\1 0={width} 1={height} 2={channels}", param, count=1)
