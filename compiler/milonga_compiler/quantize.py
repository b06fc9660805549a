"""Post-training static int8 for ONNX Runtime, calibrated on real pictures."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from milonga_compiler.backends.base import BuiltModel, Floats
from milonga_compiler.errors import BuildFailed

_CALIBRATION_BATCH = 16


@dataclass(frozen=True)
class _Recipe:
    """How ranges of activations are found, and which layers stay in fp32."""

    name: str
    method: str
    keep_ends: bool


# Tried in this order until one passes the gate: min-max is the cheapest and exact for well-behaved activations, percentile
# and entropy forgive outliers, and the first and last layers are where 8 bits lose the most.
_RECIPES = (
    _Recipe("minmax", "MinMax", keep_ends=False),
    _Recipe("percentile", "Percentile", keep_ends=False),
    _Recipe("entropy", "Entropy", keep_ends=False),
    _Recipe("minmax-ends-fp32", "MinMax", keep_ends=True),
    _Recipe("percentile-ends-fp32", "Percentile", keep_ends=True),
)
# One activation of 10,000 may be cut off; ONNX Runtime's own 99.999 keeps the outliers of a few hundred pictures.
_PERCENTILE = 99.99


class _Pictures:
    """Feeds calibration pictures, float32 (n, 3, H, W), in small batches of one size: histograms need equal shapes."""

    def __init__(self, pictures: Floats, input_name: str) -> None:
        size = min(_CALIBRATION_BATCH, len(pictures))
        self._batches: Iterator[dict[str, Any]] = iter(
            [{input_name: pictures[start : start + size]} for start in range(0, len(pictures) - size + 1, size)]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def quantize_variants(onnx_path: Path, folder: Path, calibration: Floats) -> Iterator[BuiltModel]:
    """Write int8 variants of the network into the folder, each when it is asked for, the cheapest first.

    QDQ form, symmetric per-channel weights, asymmetric per-tensor activations: what ONNX Runtime's kernels on x86 and ARM
    both take. Raises BuildFailed where ONNX Runtime cannot quantise the network.
    """
    with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
        prepared = _prepare(onnx_path, Path(scratch))
        ends = _ends(prepared)
        for recipe in _RECIPES:
            if recipe.keep_ends and not ends:
                continue
            name = f"model-{recipe.name}.onnx"
            _quantize(prepared, folder / name, calibration, recipe, ends if recipe.keep_ends else [])
            yield BuiltModel(name, [name], note=f"calibrated by {recipe.name} on {len(calibration)} pictures")


def _prepare(onnx_path: Path, scratch: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = scratch / "prepared.onnx"
    try:
        quant_pre_process(str(onnx_path), str(prepared), skip_symbolic_shape=True)
    except Exception as error:  # onnxruntime raises bare Exception here.
        raise BuildFailed(f"ONNX Runtime cannot prepare the network for int8: {error}") from error
    return prepared


def _quantize(prepared: Path, result: Path, calibration: Floats, recipe: _Recipe, kept: list[str]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    # The tool warns of each layer that it leaves alone; the gate says what matters.
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            quantize_static(
                str(prepared),
                str(result),
                _Pictures(calibration, "image"),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                calibrate_method=getattr(CalibrationMethod, recipe.method),
                extra_options={"CalibPercentile": _PERCENTILE},
                nodes_to_exclude=kept,
            )
    except Exception as error:
        raise BuildFailed(f"ONNX Runtime cannot quantise the network ({recipe.name}): {error}") from error
    finally:
        logging.disable(logging.NOTSET)


def _ends(prepared: Path) -> list[str]:
    """Return the first and last layers with weights, or nothing where no other layer would be left to quantise."""
    nodes = onnx.load(str(prepared)).graph.node
    layers = [node.name for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    return [layers[0], layers[-1]] if len(layers) > 2 else []
