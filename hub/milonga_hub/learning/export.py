"""Write a subnet as ONNX: input "image" (batch, 3, H, W), output "logits" (batch, classes), float32, nothing else."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

OPSET = 17


def export(network: nn.Module, resolution_px: int, path: Path) -> None:
    """Write the network, which must be in evaluation mode, with batch normalisation folded into its convolutions.

    Raises ValueError where the file is not valid ONNX.
    """
    folded = fold(network)
    # Two pictures: with one, the exporter could not tell the batch from a constant.
    example = torch.zeros(2, 3, resolution_px, resolution_px)
    with warnings.catch_warnings():
        # The TorchScript exporter is frozen and marked deprecated; for these layers it is complete, and 20 times faster
        # than the newer one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            folded,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ValueError(f"{path} is not valid ONNX: {error}") from error


def fold(network: nn.Module) -> nn.Module:
    """Return a copy in which every convolution has taken in the normalisation that follows it."""
    return _fold(copy.deepcopy(network).eval())


def _fold(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _fold(child))
    if not isinstance(module, nn.Sequential):
        return module
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = ""
    for name, layer in module.named_children():
        if isinstance(layer, nn.BatchNorm2d) and isinstance(layers.get(before), nn.Conv2d):
            layers[before] = fuse_conv_bn_eval(layers[before], layer)
            continue
        layers[name], before = layer, name
    return nn.Sequential(layers)
