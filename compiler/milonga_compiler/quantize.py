"""Post-training static int8 for ONNX Runtime, calibrated on real pictures."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter

from milonga_compiler.backends.base import BuiltModel, Floats
from milonga_compiler.errors import BuildFailed
from milonga_compiler.network import Network, read_network
from milonga_compiler.sensitivity import PICTURES, by_sensitivity, layers

_CALIBRATION_BATCH = 16
_BY_CHANNEL_OPSET = 13
_WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class _Kept(Enum):
    """Layers that stay in fp32."""

    NONE = "none"
    # The first and the last, where 8 bits lose the most in most networks.
    ENDS = "ends"
    # A share of those that lose the most in this network.
    TENTH = "tenth"
    QUARTER = "quarter"
    HALF = "half"


_SHARES = {_Kept.TENTH: 0.1, _Kept.QUARTER: 0.25, _Kept.HALF: 0.5}


@dataclass(frozen=True)
class _Recipe:
    """How ranges of activations are found, and which layers stay in fp32."""

    name: str
    method: str
    kept: _Kept = _Kept.NONE


# Tried in this order until one passes the gate: min-max is the cheapest and exact for well-behaved activations, percentile
# and entropy forgive outliers; then layers are given back to fp32, at most half of them: beyond that int8 has no point.
_RECIPES = (
    _Recipe("minmax", "MinMax"),
    _Recipe("percentile", "Percentile"),
    _Recipe("entropy", "Entropy"),
    _Recipe("minmax-ends-fp32", "MinMax", _Kept.ENDS),
    _Recipe("percentile-ends-fp32", "Percentile", _Kept.ENDS),
    _Recipe("minmax-sensitive-tenth-fp32", "MinMax", _Kept.TENTH),
    _Recipe("minmax-sensitive-quarter-fp32", "MinMax", _Kept.QUARTER),
    _Recipe("minmax-sensitive-half-fp32", "MinMax", _Kept.HALF),
)
# One activation of 10,000 may be cut off; ONNX Runtime's own 99.999 keeps the outliers of a few hundred pictures.
_PERCENTILE = 99.99
# Histograms hold what all layers make of all pictures at once, several times over: 8 GB for 64 pictures of 320 px in a YOLO. So many numbers tell a
# percentile as well as all do; min-max has no need of them.
_HISTOGRAM_BYTES = 1 << 28


class _Pictures:
    """Feeds calibration pictures, float32 (n, 3, H, W), in small batches of one size: histograms need equal shapes.

    Batches are as few as may be, so that few pictures are left over.
    """

    def __init__(self, pictures: Floats, input_name: str) -> None:
        size = len(pictures) // math.ceil(len(pictures) / _CALIBRATION_BATCH)
        self._batches: Iterator[dict[str, Any]] = iter(
            [{input_name: pictures[start : start + size]} for start in range(0, len(pictures) - size + 1, size)]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def quantize_variants(
    onnx_path: Path, folder: Path, calibration: Floats, symmetric: bool = False
) -> Iterator[BuiltModel]:
    """Write int8 variants of the network into the folder, each when it is asked for, the cheapest first.

    QDQ form, symmetric per-channel weights of seven bits, asymmetric per-tensor activations: what ONNX Runtime's kernels on x86 and
    ARM both take; `symmetric` activations and float biases are what TensorRT takes. Recipes that ONNX Runtime cannot follow are left
    out; raises BuildFailed where it can follow none.
    """
    network = read_network(onnx_path)
    with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
        prepared = _prepare(network, Path(scratch))
        known, tail = layers(prepared), _tail(prepared)
        few, most = calibration[:PICTURES], _most_for_histograms(prepared)

        @cache
        def ranked() -> list[str]:
            def quantize_only(layer: str) -> Path:
                made, others = Path(scratch) / "alone.onnx", [name for name in known if name != layer]
                data, ranges = _Pictures(few, network.input_name), Path(scratch) / "few.json"
                _quantize(prepared, made, data, _RECIPES[0], [*others, *tail], symmetric, ranges)
                return made

            return by_sensitivity(prepared, quantize_only, few)

        tried: list[list[str]] = []
        made = 0
        failed: dict[str, BuildFailed] = {}
        for recipe in _RECIPES:
            if recipe.method in failed:
                continue
            variant = folder / f"model-{recipe.name}.onnx"
            pictures = calibration if recipe.method == "MinMax" else calibration[:most]
            data, ranges = _Pictures(pictures, network.input_name), Path(scratch) / f"{recipe.method}.json"
            try:
                kept = _kept(recipe.kept, known, ranked)
                if recipe.kept is not _Kept.NONE and (not kept or [recipe.method, *kept] in tried):
                    continue
                tried.append([recipe.method, *kept])
                _quantize(prepared, variant, data, recipe, [*kept, *tail], symmetric, ranges)
            except BuildFailed as error:
                # Histograms fail where a layer gives one and the same number, or memory ends; other methods need none.
                print(error, file=sys.stderr)
                failed[recipe.method] = error
                continue
            made += 1
            yield BuiltModel(variant.name, [variant.name], f"calibrated by {recipe.name} on {len(pictures)} pictures")
        if not made:
            raise next(iter(failed.values()))


def _kept(kept: _Kept, known: list[str], ranked: Callable[[], list[str]]) -> list[str]:
    """Return the layers to keep in fp32: none where no other would be left to quantise."""
    if kept is _Kept.NONE or len(known) < 3:
        return []
    if kept is _Kept.ENDS:
        return [known[0], known[-1]]
    return sorted(ranked()[: math.ceil(_SHARES[kept] * len(known))])


def _prepare(network: Network, scratch: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = scratch / "prepared.onnx"
    try:
        quant_pre_process(str(_by_channel(network, scratch)), str(prepared), skip_symbolic_shape=True)
    except Exception as error:  # onnxruntime raises bare Exception here.
        raise BuildFailed(f"ONNX Runtime cannot prepare the network for int8: {error}") from error
    return prepared


def _by_channel(network: Network, scratch: Path) -> Path:
    """Return the network in an opset whose DequantizeLinear has scales by channel. Raises BuildFailed."""
    if network.opset >= _BY_CHANNEL_OPSET:
        return network.path
    path = scratch / "newer.onnx"
    try:
        onnx.save(onnx.version_converter.convert_version(onnx.load(str(network.path)), _BY_CHANNEL_OPSET), str(path))
    except Exception as error:  # The converter raises RuntimeError and others.
        raise BuildFailed(
            f"{network.path.name} is written in opset {network.opset}, int8 needs {_BY_CHANNEL_OPSET}, and ONNX cannot convert it ({error});"
            " export it again with opset_version=17"
        ) from error
    return path


def _most_for_histograms(prepared: Path) -> int:
    """Return of how many pictures histograms may hold everything that the network makes of them."""
    model = onnx.load(str(prepared))
    numbers = 0
    for value in model.graph.value_info:
        # What is open is the batch.
        numbers += math.prod(axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim)
    return max(1, _HISTOGRAM_BYTES // max(4 * numbers, 1))


def _quantize(
    prepared: Path,
    result: Path,
    calibration: _Pictures,
    recipe: _Recipe,
    kept: list[str],
    symmetric: bool,
    ranges: Path,
) -> None:
    """Write the network in int8. What calibration finds is kept in `ranges`, and taken from there where it is known.

    It is the same whatever layers are kept in fp32.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    # Older ones look for the ranges anew each time.
    known = "calibration_cache_path" in inspect.signature(quantize_static).parameters
    # The tool warns of each layer that it leaves alone; the gate says what matters.
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            quantize_static(
                str(prepared),
                str(result),
                calibration,
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                # x86 without VNNI adds two products in 16 bits, which weights of 8 bits overflow: a build that is right on one
                # processor would be wrong on another. TensorRT runs on none of these.
                reduce_range=not symmetric,
                calibrate_method=getattr(CalibrationMethod, recipe.method),
                extra_options={
                    "CalibPercentile": _PERCENTILE,
                    "ActivationSymmetric": symmetric,
                    # TensorRT adds biases as floats, and refuses the int32 that ONNX Runtime wants.
                    "QuantizeBias": not symmetric,
                },
                nodes_to_exclude=kept,
                **({"calibration_cache_path": str(ranges)} if known else {}),
            )
    except Exception as error:
        raise BuildFailed(f"ONNX Runtime cannot quantise the network ({recipe.name}): {error}") from error
    finally:
        logging.disable(logging.NOTSET)


def _tail(prepared: Path) -> list[str]:
    """Return the nodes that only rearrange what the last layers with weights make.

    They stay in fp32: in them outputs of several layers come together, and one scale for boxes and classes of a detector
    would be too coarse for both.
    """
    nodes = onnx.load(str(prepared)).graph.node
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    heavy = [node.op_type in _WITH_WEIGHTS for node in nodes]
    # Whether another layer with weights comes after; nodes stand in the order in which they are run.
    followed = [False] * len(nodes)
    for index in reversed(range(len(nodes))):
        after = {reader for name in nodes[index].output for reader in readers.get(name, ())}
        followed[index] = any(heavy[reader] or followed[reader] for reader in after)
    return [node.name for index, node in enumerate(nodes) if any(heavy) and not heavy[index] and not followed[index]]
