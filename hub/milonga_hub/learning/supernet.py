"""A weight-sharing network: every subnet of a space runs on parts of the same weights.

Batch statistics differ between subnets, so running ones are kept by none of them: an extracted subnet has its own, estimated
by `recalibrate` (Yu & Huang 2019, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from milonga_hub.learning.sharing import Skeleton, filled, shared_weights, without_statistics
from milonga_hub.learning.spaces import Space
from milonga_hub.learning.task import resized

# Subnets whose layers are kept ready; the ends of the space come in each step.
_KEPT = 64
# Blocks of those and of others: subnets drawn by chance are of the same blocks time and again. One takes some 50 kB.
_KEPT_PARTS = 512


class Supernet(nn.Module):
    """All subnets of a space, for a fixed number of classes. Its parameters are those of `space.shared`."""

    def __init__(self, space: Space, classes: int) -> None:
        super().__init__()
        self.space, self.classes = space, classes
        self.shared = without_statistics(space.shared(classes))
        self._part = lru_cache(maxsize=_KEPT_PARTS)(Skeleton.of)
        self._skeleton = lru_cache(maxsize=_KEPT)(self._built)

    def _built(self, encoding: tuple[int, ...]) -> Skeleton:
        return self.space.skeleton(encoding, self.classes, self._part)

    def forward(self, x: Tensor, encoding: Sequence[int]) -> Any:
        """Return what one subnet makes of normalised pictures (n, 3, H, W), by batch statistics.

        Pictures are brought to the subnet's resolution.
        """
        encoding = self.space.canonical(encoding)
        x = resized(x, self.space.resolution(encoding))
        # Channels last halves the time of depthwise convolutions on processors.
        x = x.contiguous(memory_format=torch.channels_last)
        return self._skeleton(encoding).run(dict(self.shared.named_parameters()), x)

    def extract(self, encoding: Sequence[int]) -> nn.Module:
        """Return the subnet as a network of its own, with copies of its weights. Recalibrate it before use."""
        network = self.space.network(self.space.canonical(encoding), self.classes)
        return filled(network, shared_weights(dict(self.shared.named_parameters()), network))


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Sequence[Tensor], resolution_px: int) -> nn.Module:
    """Estimate the network's batch statistics on normalised pictures and return it in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # The plain mean over all batches.
        norm.momentum = None
    network.train()
    for batch in batches:
        network(resized(batch, resolution_px))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return network.eval()
