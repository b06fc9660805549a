"""onnx's own reference evaluator: slow, and right by definition. What every other engine is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.embedding import embed
from milonga_compiler.engines import Precision
from milonga_compiler.errors import UnsupportedOperators
from milonga_compiler.network import Network, copy_whole


class ReferenceBackend(Backend):
    name = "reference"

    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        self._accept(network, folder)
        copy_whole(network, folder / "model.onnx")
        return [BuiltModel("model.onnx", ["model.onnx"])]

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        return self.outputs(model_file, inputs, threads)[0]

    def outputs(self, model_file: Path, inputs: Floats, threads: int) -> list[Floats]:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(model_file))
        return [np.asarray(one, dtype=np.float32) for one in evaluator.run(None, {evaluator.input_names[0]: inputs})]

    def embed(self, model_file: Path) -> bool:
        return embed(model_file)

    def _accept(self, network: Network, scratch: Path) -> None:
        from onnx.reference import ReferenceEvaluator
        from onnx.reference.ops import load_op
        from onnx.reference.ops.aionnxml import load_op as load_ml_op

        unknown = []
        for operator in sorted(network.operators):
            domain, _, name = operator.rpartition(".")
            try:
                if domain == "ai.onnx.ml":
                    load_ml_op(domain, name, None)
                else:
                    load_op(domain, name, network.opset, evaluator_cls=ReferenceEvaluator)
            except Exception:  # It raises several kinds for an operator that it does not have.
                unknown.append(operator)
        if unknown:
            raise UnsupportedOperators(f"onnx does not know {', '.join(unknown)}", unknown)
