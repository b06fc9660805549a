"""Hold a build against the network that it was made from, on real pictures, whatever the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.backends.base import Floats
from milonga_compiler.engines import Precision
from milonga_compiler.errors import BuildFailed, PicturesUnusable

# fp32 engines reorder sums; an error above this share of the outputs' range is a wrong result, not rounding.
FP32_RELATIVE_ERROR = 1e-3


class Judge(ABC):
    """What one network's outputs on the validation pictures come to. They are given in parts, in the pictures' order."""

    #: What accuracy is called, for people.
    measure = "accuracy"
    #: Whether it wants to know what the last layer but one makes of the pictures, where an engine can tell.
    takes_embeddings = False

    @abstractmethod
    def add(self, outputs: Floats) -> None:
        """Take the outputs (n, ...) for the next n pictures."""

    def embedded(self, embeddings: Floats) -> None:
        """Take the second output (n, d) of a build that has one, for the pictures of the last `add`."""
        raise NotImplementedError(f"{type(self).__name__} takes no embeddings")

    @abstractmethod
    def accuracy(self) -> float:
        """Return how good they are, 0 to 1: the share of right answers, or mAP50-95."""

    @abstractmethod
    def entries(self) -> Mapping[str, Any]:
        """Return what follows from them for a manifest: "output", and for example "postprocess" and "reference"."""


class Evidence(ABC):
    """What a build is held against: pictures, what the subnet makes of them, and how to judge outputs."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Return how many pictures there are, at least 1."""

    @property
    @abstractmethod
    def expected(self) -> Floats:
        """Return the subnet's outputs (m, ...) on the first m pictures; m is at least 1."""

    @property
    @abstractmethod
    def subnet_accuracy(self) -> float:
        """Return how good the subnet's own outputs are, as the judge has it."""

    @abstractmethod
    def parts(self) -> Iterable[Floats]:
        """Return all pictures, normalised, in parts (n, 3, H, W) that fit into memory."""

    @abstractmethod
    def judge(self) -> Judge:
        """Return a judge of one build's outputs."""


class Answers(Judge):
    """Classification: the likeliest class of logits (n, c) is right or wrong."""

    def __init__(self, labels: NDArray[np.int64]) -> None:
        """`labels` (n,) are the right classes of all pictures."""
        self._labels = labels
        self._answers: list[NDArray[np.int64]] = []
        self._classes = 0

    def add(self, outputs: Floats) -> None:
        self._classes = outputs.shape[1]
        self._answers.append(outputs.argmax(axis=1))

    @property
    def answers(self) -> NDArray[np.int64]:
        """Return the classes (n,) that the pictures so far were given."""
        return np.concatenate(self._answers)

    def accuracy(self) -> float:
        return float((self.answers == self._labels[: len(self.answers)]).mean())

    def entries(self) -> Mapping[str, Any]:
        return {"output": {"name": "logits", "shape": [1, self._classes], "activation": "softmax"}}


@dataclass(frozen=True)
class Labelled(Evidence):
    """Evidence on a classifier: normalised pictures (n, 3, H, W), the subnet's logits (n, c) on them, and labels (n,).

    Raises PicturesUnusable where there are none, or not as many of each.
    """

    pictures: Floats
    logits: Floats
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        counts = {len(self.pictures), len(self.logits), len(self.labels)}
        if len(counts) > 1 or self.pictures.ndim != 4 or self.logits.ndim != 2:
            shapes = f"{self.pictures.shape}, logits {self.logits.shape} and labels {self.labels.shape}"
            raise PicturesUnusable(f"pictures {shapes} do not belong together; make them from one data set")
        if counts == {0}:
            raise PicturesUnusable("there are no validation pictures to prove a build with; add some")

    @property
    def count(self) -> int:
        return len(self.pictures)

    @property
    def expected(self) -> Floats:
        return self.logits

    @property
    def subnet_accuracy(self) -> float:
        return float((self.logits.argmax(axis=1) == self.labels).mean())

    def parts(self) -> Iterable[Floats]:
        return [self.pictures]

    def judge(self) -> Judge:
        return Answers(self.labels)


@dataclass(frozen=True)
class Report:
    """Figures of a build. Accuracies are from 0 to 1.

    `max_abs_error` is the largest difference of any output from the subnet's; infinite where one is not a finite number.
    `allowed_error` is the most that it may be, None where accuracy alone decides. `agreement` is the share of what the subnet decides
    that the build decides too (milonga_compiler.decisions); None where it decides too little to tell.
    """

    accuracy: float
    subnet_accuracy: float
    max_abs_error: float
    count: int
    allowed_error: float | None = None
    agreement: float | None = None

    @property
    def lost_points(self) -> float:
        """Accuracy lost against the subnet, in percentage points; negative where the build is better."""
        return (self.subnet_accuracy - self.accuracy) * 100.0


class Comparison:
    """How far a build's outputs are from those expected, as they come."""

    def __init__(self, expected: Floats) -> None:
        self._expected = expected
        self.count = 0
        self.not_finite = 0
        self.max_abs_error = 0.0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, outputs: Floats) -> None:
        """Take the outputs for the next pictures. Raises BuildFailed where the shape is another network's."""
        wanted = self._expected[self.count : self.count + len(outputs)]
        if outputs.shape[1:] != self._expected.shape[1:]:
            raise BuildFailed(
                f"its outputs have the shape {outputs.shape[1:]}, the subnet's {self._expected.shape[1:]}"
            )
        self.count += len(outputs)
        finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
        self.not_finite += int((~finite).sum())
        if not finite.all():
            self.max_abs_error = float("inf")
            return
        self.low, self.high = min(self.low, float(outputs.min())), max(self.high, float(outputs.max()))
        if len(wanted):
            error = float(np.abs(outputs[: len(wanted)] - wanted).max())
            self.max_abs_error = max(self.max_abs_error, error)

    def allowed_error(self, precision: str) -> float | None:
        """Return how far outputs of this precision may be from those expected, None where accuracy alone decides."""
        if precision != Precision.FP32:
            return None
        return FP32_RELATIVE_ERROR * max(1.0, float(np.abs(self._expected).max()))

    def objection(self, report: Report, precision: str, max_lost_points: float, measure: str) -> str | None:
        """Return why a build must not be used, in figures, or None where it holds."""
        if self.not_finite:
            return f"{self.not_finite} of {self.count} outputs are not finite numbers"
        allowed = self.allowed_error(precision)
        if allowed is not None and report.max_abs_error > allowed:
            return f"its outputs differ by up to {report.max_abs_error:.3g} from the subnet's, {allowed:.3g} allowed"
        # Accuracies are shares of whole pictures, so 1e-9 only forgives the rounding of the subtraction.
        if report.lost_points > max_lost_points + 1e-9:
            return (
                f"lost {report.lost_points:.2f} points of {measure} ({report.subnet_accuracy:.2%} to"
                f" {report.accuracy:.2%} on {report.count} pictures), {max_lost_points:g} allowed"
            )
        return None
