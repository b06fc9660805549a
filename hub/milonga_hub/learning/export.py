"""Write a subnet as ONNX: input "image" (batch, 3, H, W), one output (batch, ...), float32, nothing else."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

OPSET = 17


def export(network: nn.Module, resolution_px: int, path: Path, output: str = "logits") -> None:
    """Write a network as `Space.deployed` gives it. Raises ValueError where the file is not valid ONNX."""
    # Two pictures: with one, the exporter could not tell the batch from a constant.
    example = torch.zeros(2, 3, resolution_px, resolution_px, device=next(network.parameters()).device)
    with warnings.catch_warnings():
        # The TorchScript exporter is frozen and marked deprecated; for these layers it is complete, and 20 times faster
        # than the newer one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[output],
            dynamic_axes={"image": {0: "batch"}, output: {0: "batch"}},
        )
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ValueError(f"{path} is not valid ONNX: {error}") from error
