"""LiteRT (TensorFlow Lite): ONNX to PyTorch by pnnx, that to a flatbuffer by litert-torch, int8 by ai-edge-quantizer."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.embedding import embedded
from milonga_compiler.engines import Precision
from milonga_compiler.errors import BuildFailed, UnsupportedOperators
from milonga_compiler.network import Network
from milonga_compiler.pnnx import convert


class LiteRtBackend(Backend):
    name = "litert"

    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        model = folder / "model.tflite"
        with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
            whole, _ = embedded(network, Path(scratch))
            _translated(_code(whole, Path(scratch)), network.shape).export(str(model))
        if precision is Precision.INT8 and calibration is not None:
            yield from _quantized(model, calibration)
        else:
            yield BuiltModel(model.name, [model.name])

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        return self.outputs(model_file, inputs, threads)[0]

    def outputs(self, model_file: Path, inputs: Floats, threads: int) -> list[Floats]:
        interpreter = _loaded(model_file, threads)
        given, asked = interpreter.get_input_details()[0], interpreter.get_output_details()
        found = []
        for picture in inputs:
            interpreter.set_tensor(given["index"], _stored(picture[None], given))
            interpreter.invoke()
            found.append([_floats(interpreter.get_tensor(each["index"]), each) for each in asked])
        return [np.concatenate(each) for each in zip(*found)]

    def embed(self, model_file: Path) -> bool:
        # It was converted with the output, where the network has a last layer that could be told.
        return len(_loaded(model_file, 1).get_output_details()) > 1

    def _accept(self, network: Network, scratch: Path) -> None:
        _code(network, scratch)


def _loaded(model_file: Path, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model_file), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def _code(network: Network, scratch: Path) -> Path:
    """Return the file of PyTorch code that pnnx wrote. Raises UnsupportedOperators or BuildFailed."""
    code = convert(network, scratch).with_suffix(".py")
    # What pnnx does not know in PyTorch's terms it calls by its name in ONNX, which no module defines.
    called = {
        node.func.id
        for node in ast.walk(ast.parse(code.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    if unknown := sorted(name for name in network.operators if name.rpartition(".")[2] in called):
        raise UnsupportedOperators(f"pnnx does not know the operators {', '.join(unknown)}", unknown)
    return code


def _translated(code: Path, shape: tuple[int, ...]) -> Any:
    """Return the flatbuffer of the PyTorch code that pnnx wrote, for one picture of the shape (3, H, W)."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # litert-torch would look for models.
    import litert_torch
    import torch

    spec = importlib.util.spec_from_file_location("converted", str(code))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _inside(code.parent):  # The code opens its weights by a relative path.
        spec.loader.exec_module(module)
        network = module.Model().float().eval()
    try:
        return litert_torch.convert(network, (torch.zeros(1, *shape),))
    except Exception as error:  # It raises torch's, JAX's and MLIR's kinds.
        raise BuildFailed(f"litert-torch cannot convert the network: {error}") from error


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(str(folder))
    try:
        yield
    finally:
        os.chdir(str(before))


def _quantized(model: Path, calibration: Floats) -> Iterator[BuiltModel]:
    """Yield int8 variants: ranges of activations from the pictures, then found anew for each picture while it runs."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    ((signature, names),) = Interpreter(model_path=str(model)).get_signature_list().items()
    pictures = {signature: [{names["inputs"][0]: picture[None]} for picture in calibration]}
    recipes = {"static": recipe.static_wi8_ai8(), "dynamic": recipe.dynamic_wi8_afp32()}
    for name, chosen in recipes.items():
        made = model.with_name(f"model-{name}.tflite")
        tool = quantizer.Quantizer(str(model))
        tool.load_quantization_recipe(chosen)
        ranges = tool.calibrate(pictures) if tool.need_calibration else None
        tool.quantize(ranges).export_model(str(made), overwrite=True)
        yield BuiltModel(made.name, [made.name], f"calibrated by {name} on {len(calibration)} pictures")


def _stored(picture: Floats, described: dict[str, Any]) -> Any:
    """Return the picture in the numbers of the model's input: q = round(x / scale) + zero point."""
    scale, zero = described["quantization"]
    if described["dtype"] == np.float32 or not scale:
        return picture
    limits = np.iinfo(described["dtype"])
    return np.clip(np.round(picture / scale) + zero, limits.min, limits.max).astype(described["dtype"])


def _floats(output: Any, described: dict[str, Any]) -> Floats:
    scale, zero = described["quantization"]
    if described["dtype"] == np.float32 or not scale:
        return np.array(output, dtype=np.float32)
    return np.asarray((output.astype(np.float32) - zero) * scale, dtype=np.float32)
