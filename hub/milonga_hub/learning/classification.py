"""Learning to classify pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from milonga_hub.learning.data import Data, augment
from milonga_hub.learning.task import Task, resized

LABEL_SMOOTHING = 0.1
_EVALUATION_BATCH = 256
# Classes more unlike in size than this are weighted by the inverse root of their size (Mahajan et al. 2018, section 2.2).
_MOST_UNLIKE = 3.0


class Classification(Task):
    """Pictures with one label each. Networks make logits (n, classes)."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.classes, self.count = data.classes, len(data.x_train)
        self._weights = _weights(data.y_train, data.classes)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(self.count, generator=generator)
        for chosen in order.split(size):
            # Batch statistics of one picture say nothing.
            if len(chosen) > 1:
                yield augment(self.data.x_train[chosen], generator), self.data.y_train[chosen]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = self._weights.to(outputs.device)
        each = F.cross_entropy(outputs.float(), targets, reduction="none", label_smoothing=LABEL_SMOOTHING)
        return (each * weights[targets]).mean()

    def distilled(self, outputs: Tensor, taught: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy to the largest subnet's probabilities, and to the labels, half each (once-for-all, Cai et al. 2020).

        With the largest alone (BigNAS, Yu et al. 2020) short trainings teach little: the teacher knows nothing at first.
        """
        each = F.cross_entropy(outputs.float(), F.softmax(taught.float(), dim=1), reduction="none")
        taught_loss = (each * self._weights.to(outputs.device)[targets]).mean()
        return (taught_loss + self.loss(outputs, targets)) / 2

    @property
    def calibration(self) -> Sequence[Tensor]:
        return self.data.calibration

    @torch.no_grad()
    def logits(self, network: nn.Module, resolution_px: int) -> Tensor:
        """Return logits (n, classes) on the validation split, scaled as devices scale pictures."""
        device = next(network.parameters()).device
        parts = self.data.validation(resolution_px).split(_EVALUATION_BATCH)
        return torch.cat([network(part.to(device)).float().cpu() for part in parts])

    def pictures(self, resolution_px: int, count: int = 128) -> NDArray[np.float32]:
        """Return training pictures float32 (n, 3, H, W) at this resolution, to find ranges of activations on."""
        return np.asarray(resized(self.data.calibration[0][:count], resolution_px).numpy())

    def evaluate(self, network: nn.Module, resolution_px: int) -> float:
        """Return the share of right answers."""
        return accuracy(self.logits(network, resolution_px), self.data.y_val)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of right answers."""
    return float((logits.argmax(dim=1) == labels).float().mean())


def _weights(labels: Tensor, classes: int) -> Tensor:
    """Return weights (classes,) with a mean of 1 over pictures; all 1 where classes are of like size."""
    counts = torch.bincount(labels, minlength=classes).float()
    present = counts[counts > 0]
    if present.max() <= _MOST_UNLIKE * present.min():
        return torch.ones(classes)
    weights = torch.where(counts > 0, counts.clamp(min=1.0) ** -0.5, torch.zeros(classes))
    return weights * len(labels) / (weights * counts).sum()
