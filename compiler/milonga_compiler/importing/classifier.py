"""The logits of a classifier from elsewhere: what it makes before its softmax, which devices apply themselves."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from milonga_compiler.backends.base import Floats
from milonga_compiler.errors import BuildFailed
from milonga_compiler.importing.reading import Foreign


def logits_of(foreign: Foreign, made: Floats) -> tuple[onnx.ModelProto, str]:
    """Return the network, and which of its values (n, classes) are the logits; `made` is what it makes of pictures.

    Raises BuildFailed for one whose outputs are something else.
    """
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    makers = {name: node for node in model.graph.node for name in node.output}
    output = foreign.output_name
    while output in makers and makers[output].op_type in ("Identity", "Dropout"):
        output = makers[output].input[0]
    last = makers[output].op_type if output in makers else ""
    if last == "Sigmoid":
        raise BuildFailed(
            f"{foreign.name} ends in a sigmoid: it says of each class by itself whether a picture shows it; taken are"
            " classifiers that choose one class"
        )
    if last == "Softmax":
        output = makers[output].input[0]
    elif _are_shares(made):
        raise BuildFailed(
            f"{foreign.name} makes probabilities, and does not end in a softmax that could be taken off; export it without its"
            " softmax"
        )
    if made.ndim == 4:
        model.graph.node.append(helper.make_node("Flatten", [output], ["flat_logits"], "flat_logits", axis=1))
        output = "flat_logits"
    return model, output


def _are_shares(made: Floats) -> bool:
    """Return whether all outputs are shares of a whole, as probabilities are."""
    flat = made.reshape(len(made), -1)
    return bool((flat >= 0).all() and flat.shape[1] > 1 and np.abs(flat.sum(axis=1) - 1).max() < 1e-3)
