"""Fold batch normalisation into the convolutions before it, as networks are handed out."""

from __future__ import annotations

import copy
from collections import OrderedDict

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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
