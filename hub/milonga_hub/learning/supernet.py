"""A weight-sharing network: every subnet of a space runs on slices of the same weights.

Hidden channels are taken from the front, smaller kernels are the centre of larger ones, shallower stages leave out their
last blocks (once-for-all, Cai et al. 2020, section 3.2). Batch statistics differ between subnets, so running ones are
kept by none of them: an extracted subnet has its own, estimated by `recalibrate` (Yu & Huang 2019, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milonga_hub.learning.spaces import Block, Encoding, Space

_EPSILON = 1e-5


class _SharedNorm(nn.Module):
    """Batch normalisation of the first channels by the statistics of the batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[1]
        return F.batch_norm(x, None, None, self.weight[:width], self.bias[:width], training=True, eps=_EPSILON)


class _SharedBlock(nn.Module):
    """An inverted residual block at its largest."""

    def __init__(self, in_width: int, width: int, expand: int, kernel: int, residual: bool) -> None:
        super().__init__()
        hidden = in_width * expand
        self.expand = nn.Parameter(torch.empty(hidden, in_width, 1, 1))
        self.expand_norm = _SharedNorm(hidden)
        self.depthwise = nn.Parameter(torch.empty(hidden, 1, kernel, kernel))
        self.depthwise_norm = _SharedNorm(hidden)
        self.project = nn.Parameter(torch.empty(width, hidden, 1, 1))
        self.project_norm = _SharedNorm(width)
        for weight in (self.expand, self.depthwise, self.project):
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        if residual:
            # The block starts as the identity (Goyal et al. 2017, section 5.1), so that leaving it out changes little:
            # random subnets gained 7 points of accuracy by it on digits.
            nn.init.zeros_(self.project_norm.weight)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        hidden = block.hidden
        y = x
        if block.expand > 1:
            y = F.relu(self.expand_norm(F.conv2d(x, self.expand[:hidden])))
        weight = centre(self.depthwise[:hidden], block.kernel)
        y = F.conv2d(y, weight, stride=block.stride, padding=block.kernel // 2, groups=hidden)
        y = F.relu(self.depthwise_norm(y))
        y = self.project_norm(F.conv2d(y, self.project[:, :hidden]))
        return x + y if block.residual else y


def centre(weight: Tensor, kernel: int) -> Tensor:
    """Return the middle of a kernel (..., K, K) as (..., kernel, kernel)."""
    cut = (weight.shape[-1] - kernel) // 2
    return weight[..., cut : cut + kernel, cut : cut + kernel]


class Supernet(nn.Module):
    """All subnets of a space, for pictures of one size and a fixed list of classes."""

    def __init__(self, space: Space, resolution_px: int, classes: int) -> None:
        super().__init__()
        self.space, self.resolution_px, self.classes = space, resolution_px, classes
        self.shape = space.shape(resolution_px)
        widths = [3, *([space.stem_width] * len(self.shape.stem))]
        self.stem = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, 1, bias=False)
            for before, after, stride in zip(widths, widths[1:], self.shape.stem, strict=False)
        )
        self.stem_norms = nn.ModuleList(_SharedNorm(space.stem_width) for _ in self.shape.stem)
        self.blocks = nn.ModuleDict(
            {
                f"{block.stage}_{block.index}": _SharedBlock(
                    block.in_width, block.width, block.expand, block.kernel, block.residual
                )
                for block in space.blocks(space.largest(), self.shape)
            }
        )
        self.head = nn.Conv2d(space.stages[-1].width, space.head_width, 1, bias=False)
        self.head_norm = _SharedNorm(space.head_width)
        self.classifier = nn.Linear(space.head_width, classes)

    def forward(self, x: Tensor, encoding: Sequence[int]) -> Tensor:
        """Return logits (n, classes) of normalised pictures (n, 3, H, W) from one subnet, by batch statistics."""
        # Channels last halves the time of depthwise convolutions on processors.
        x = x.contiguous(memory_format=torch.channels_last)
        for convolution, norm in zip(self.stem, self.stem_norms, strict=True):
            x = F.relu(norm(convolution(x)))
        for block in self.space.blocks(encoding, self.shape):
            x = self.blocks[f"{block.stage}_{block.index}"](x, block)
        x = F.relu(self.head_norm(self.head(x)))
        return self.classifier(x.mean(dim=(2, 3)))

    def extract(self, encoding: Encoding) -> nn.Sequential:
        """Return the subnet as a network of its own, with copies of its weights. Recalibrate it before use."""
        layers: list[nn.Module] = []
        for convolution, norm in zip(self.stem, self.stem_norms, strict=True):
            layers += [_copy(convolution.weight, convolution.stride[0]), _norm(norm, self.space.stem_width), nn.ReLU()]
        for block in self.space.blocks(encoding, self.shape):
            layers.append(_extract_block(self.blocks[f"{block.stage}_{block.index}"], block))
        layers += [_copy(self.head.weight, 1), _norm(self.head_norm, self.space.head_width), nn.ReLU()]
        classifier = nn.Linear(self.classifier.in_features, self.classes)
        classifier.load_state_dict(self.classifier.state_dict())
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)


class Residual(nn.Module):
    """Adds its input to what its layers make of it."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _extract_block(shared: nn.Module, block: Block) -> nn.Module:
    hidden = block.hidden
    layers: list[nn.Module] = []
    if block.expand > 1:
        layers += [_copy(shared.expand[:hidden], 1), _norm(shared.expand_norm, hidden), nn.ReLU()]
    depthwise = centre(shared.depthwise[:hidden], block.kernel)
    layers += [_copy(depthwise, block.stride, groups=hidden), _norm(shared.depthwise_norm, hidden), nn.ReLU()]
    layers += [_copy(shared.project[:, :hidden], 1), _norm(shared.project_norm, block.width)]
    whole = nn.Sequential(*layers)
    return Residual(whole) if block.residual else whole


def _copy(weight: Tensor, stride: int, groups: int = 1) -> nn.Conv2d:
    out_width, in_width, kernel = weight.shape[0], weight.shape[1] * groups, weight.shape[-1]
    layer = nn.Conv2d(in_width, out_width, kernel, stride, kernel // 2, groups=groups, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def _norm(shared: nn.Module, width: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(width, eps=_EPSILON)
    with torch.no_grad():
        layer.weight.copy_(shared.weight[:width])
        layer.bias.copy_(shared.bias[:width])
    return layer


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """Estimate the network's batch statistics on normalised pictures and return it in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        # The plain mean over all batches.
        norm.momentum = None
    network.train()
    for batch in batches:
        network(batch)
    return network.eval()
