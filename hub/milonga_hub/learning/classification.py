"""Learning to classify pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from milonga import pictures
from milonga.embeddings import described
from milonga.inputs import Input
from milonga_compiler.backends.base import Floats
from milonga_compiler.parity import Answers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from milonga_hub.learning.data import Data, augment
from milonga_hub.learning.judged import examples, of_answers
from milonga_hub.learning.task import PictureJudge, Task, parts, together

LABEL_SMOOTHING = 0.1
# Classes more unlike in size than this are weighted by the inverse root of their size (Mahajan et al. 2018, section 2.2).
_MOST_UNLIKE = 3.0


class Classification(Task):
    """Pictures with one label each. Networks make logits (n, classes)."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.names, self.classes, self.count = data.names, len(data.names), len(data.x_train)
        self._scaled: dict[int, NDArray[np.uint8]] = {}
        self._references: dict[int, Mapping[str, list[int]]] = {}
        self._weights = _weights(data.y_train, self.classes)

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

    def input(self, resolution_px: int) -> Input:
        return Input(resolution_px, self.data.mean, self.data.std, steps=self.data.steps)

    @property
    def added(self) -> NDArray[np.int64]:
        return self.data.added_val

    @property
    def held_back(self) -> NDArray[np.bool_]:
        return self.data.held_back

    @property
    def shown(self) -> NDArray[np.bool_]:
        return np.asarray(self.data.y_val.numpy()[:, None] == np.arange(self.classes))

    def validation(self, seen: Input) -> Iterator[Floats]:
        return _inputs(self._scaled_val(seen), seen)

    def _scaled_val(self, seen: Input) -> NDArray[np.uint8]:
        if seen.size_px not in self._scaled:
            self._scaled[seen.size_px] = pictures.scaled(self.data.raw_val, seen.size_px)
        return self._scaled[seen.size_px]

    def _reference(self, seen: Input) -> Mapping[str, list[int]]:
        if seen.size_px not in self._references:
            images = (Image.fromarray(one.transpose(1, 2, 0)) for one in self._scaled_val(seen))
            self._references[seen.size_px] = pictures.reference(images)
        return self._references[seen.size_px]

    def calibrating(self, seen: Input, count: int, seed: int) -> Floats:
        chosen = np.random.default_rng(seed).permutation(self.count)[:count]
        return together(_inputs(self.data.raw_train[np.sort(chosen)], seen), seen.size_px)

    def judge(self, seen: Input, names: Sequence[str] | None = None) -> PictureJudge:
        return _Judge(self.data, self.names if names is None else names, lambda: self._reference(seen))

    def newest(self, learned: int = 0) -> Task | None:
        newest = self.data.newest(learned)
        return None if newest is None else Classification(newest)


def _inputs(arrays: NDArray[np.uint8], seen: Input) -> Iterator[Floats]:
    for start, stop in parts(len(arrays), seen.size_px):
        yield seen.normalise(pictures.scaled(arrays[start:stop], seen.size_px))


class _Judge(Answers, PictureJudge):
    """Right and wrong answers, and what healthy telemetry of a device that answers so looks like."""

    takes_embeddings = True

    def __init__(self, data: Data, names: Sequence[str], reference: Callable[[], Mapping[str, list[int]]]) -> None:
        """`reference` describes the pictures as the network sees them; it is called for manifests alone."""
        super().__init__(data.y_val.numpy())
        self._reference = reference
        self.held_back = data.held_back
        index = {name: number for number, name in enumerate(data.names)}
        self._data = data
        self._known = np.array([index.get(name, -1) for name in names], dtype=np.int64)
        self._confidences: list[Floats] = []
        self._embeddings: list[Floats] = []

    def add(self, outputs: Floats) -> None:
        super().add(outputs)
        self._confidences.append(pictures.softmax(outputs).max(axis=1))

    def embedded(self, embeddings: Floats) -> None:
        self._embeddings.append(embeddings)

    def scores(self) -> NDArray[np.float64]:
        """Return 1 for each right answer; a class that the data set does not know is wrong."""
        answers = self._known[self.answers]
        return np.asarray(answers == self._data.y_val.numpy()[: len(answers)], dtype=np.float64)

    def accuracy_of(self, chosen: NDArray[np.bool_]) -> float:
        return float(self.scores()[chosen].mean())

    def accuracy(self) -> float:
        return PictureJudge.accuracy(self)

    def entries(self) -> Mapping[str, Any]:
        """Confidence and classes are those of the build that will serve: int8 is less or more sure of itself."""
        confidences = np.concatenate(self._confidences)
        reference = {
            **self._reference(),
            "confidence": pictures.histogram("confidence", confidences.tolist()),
            # Of those, the right ones: how far the model's confidence can be believed.
            "confidence_right": pictures.histogram("confidence", confidences[self.scores() > 0].tolist()),
            "class_counts": np.bincount(self.answers, minlength=len(self._known)).tolist(),
            "sample_count": len(self.answers),
        }
        cells, counted = described(self._embeddings)
        return {
            **super().entries(),
            **cells,
            "statistics_of": pictures.OF_INPUTS,
            "reference": {**reference, **counted},
            "judged": self._judged(confidences),
        }

    def _judged(self, confidences: Floats) -> dict[str, Any]:
        """Class by class, in the network's own order; pictures of classes that it does not know are left out."""
        places = np.full(len(self._data.names), -1, dtype=np.int64)
        places[self._known[self._known >= 0]] = np.flatnonzero(self._known >= 0)
        labels = places[self._data.y_val.numpy().astype(np.int64)[: len(self.answers)]]
        known = labels >= 0
        judged = labels[known], self.answers[known], confidences[known]
        return {
            **of_answers(*judged, len(self._known)),
            "examples": examples(np.flatnonzero(known), *judged),
        }


def _weights(labels: Tensor, classes: int) -> Tensor:
    """Return weights (classes,) with a mean of 1 over pictures; all 1 where classes are of like size."""
    counts = torch.bincount(labels, minlength=classes).float()
    present = counts[counts > 0]
    if present.max() <= _MOST_UNLIKE * present.min():
        return torch.ones(classes)
    weights = torch.where(counts > 0, counts.clamp(min=1.0) ** -0.5, torch.zeros(classes))
    return weights * len(labels) / (weights * counts).sum()
