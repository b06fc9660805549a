"""Which layers cannot bear int8: each is quantised alone, and what that does to the outputs is its sensitivity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from milonga_compiler.backends.base import Floats

_LAYERS = ("Conv", "Gemm", "MatMul")
# A few pictures rank the layers as hundreds do, and every layer costs one quantisation and one run of them.
PICTURES = 8


def layers(path: Path) -> list[str]:
    """Return the names of the layers with weights, in the order of the file."""
    return [node.name for node in onnx.load(str(path)).graph.node if node.op_type in _LAYERS]


def by_sensitivity(plain: Path, quantize_only: Callable[[str], Path], pictures: Floats) -> list[str]:
    """Return the layers of the network, the most sensitive first.

    `quantize_only` writes the network with one layer in int8. Sensitivity is |y' - y| / |y| of the first output on the
    pictures, float32 (n, 3, H, W). Noise inside a layer says less: where one channel is far larger than the others, the
    others are lost and the ratio of signal to noise is still good.
    """
    wanted = _outputs(plain, pictures)

    def moved(layer: str) -> float:
        return float(np.linalg.norm(_outputs(quantize_only(layer), pictures) - wanted))

    return sorted(layers(plain), key=moved, reverse=True)


def _outputs(path: Path, pictures: Floats) -> Floats:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    parts = [session.run(None, {given.name: picture[None]})[0] for picture in pictures]
    return np.concatenate(parts).astype(np.float32)
