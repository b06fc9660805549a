"""The back end of the engine "packed": the ONNX file, compressed. Fewer bytes to send, and to run it, onnx's own evaluator."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.engines import Precision
from milonga_compiler.errors import BuildFailed
from milonga_compiler.network import Network

MODEL_FILE = "model.onnx.gz"


class PackedBackend(Backend):
    """Runs in a process of its own, with limits on time and memory; what it prints is the build's log."""

    name = "packed"

    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        self._accept(network, folder)
        # Without a date in it, equal networks make equal files.
        (folder / MODEL_FILE).write_bytes(gzip.compress(network.path.read_bytes(), mtime=0))
        return [BuiltModel(MODEL_FILE, [MODEL_FILE])]

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        evaluator = _evaluator(gzip.decompress(model_file.read_bytes()))
        return np.asarray(evaluator.run(None, {evaluator.input_names[0]: inputs})[0], dtype=np.float32)

    def _accept(self, network: Network, scratch: Path) -> None:
        try:
            _evaluator(network.path.read_bytes())
        except Exception as error:  # onnx raises several kinds of its own.
            raise BuildFailed(f"onnx cannot load the network: {error}") from error


def _evaluator(model: bytes) -> Any:
    # The engine is imported here and not above: this file is read wherever the back end is looked at.
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model)
