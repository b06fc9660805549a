"""What a build job holds its builds against: the validation pictures of a data set, or pictures made for it where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from milonga import detections
from milonga.inputs import Input
from milonga_compiler.backends.base import Floats
from milonga_compiler.parity import Evidence, Judge

if TYPE_CHECKING:
    from milonga_hub.learning.task import Task

_MADE_PICTURES = 8


@dataclass(frozen=True)
class SeenEvidence(Evidence):
    """Evidence on builds of a network that makes inputs of pictures in one way."""

    seen: Input
    outputs: Floats

    @property
    def expected(self) -> Floats:
        return self.outputs


@dataclass(frozen=True)
class TaskEvidence(SeenEvidence):
    """The validation pictures of a task; `names` are the network's classes."""

    task: Task
    accuracy: float
    names: Sequence[str] | None = None

    @property
    def count(self) -> int:
        return self.task.judged_count

    @property
    def subnet_accuracy(self) -> float:
        return self.accuracy

    def parts(self) -> Iterable[Floats]:
        return self.task.validation(self.seen)

    def judge(self) -> Judge:
        return self.task.judge(self.seen, self.names)


@dataclass(frozen=True)
class MadeEvidence(SeenEvidence):
    """Pictures that show nothing: a build must make of them what the network makes, and no more is known of it.

    `about` is the "manifest" of a build job's spec, and `told` which boxes devices tell.
    """

    about: Mapping[str, Any]
    told: Mapping[str, Any]

    @property
    def count(self) -> int:
        return _MADE_PICTURES

    @property
    def subnet_accuracy(self) -> float:
        return 1.0

    def parts(self) -> Iterable[Floats]:
        return [made(self.seen)]

    def judge(self) -> Judge:
        return _Unjudged(self.about, self.told)


class _Unjudged(Judge):
    """Says of outputs what they are, and not how good they are."""

    def __init__(self, about: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        self._about, self._told = about, told
        self._shape: tuple[int, ...] = ()

    def add(self, outputs: Floats) -> None:
        self._shape = outputs.shape[1:]

    def accuracy(self) -> float:
        return 1.0

    def entries(self) -> Mapping[str, Any]:
        if self._about["task"] == "classification":
            return {"output": {"name": "logits", "shape": [1, *self._shape], "activation": "softmax"}}
        bins = (self._shape[0] - len(self._about["classes"])) // 4
        described = {"name": "maps", "shape": [1, *self._shape], "bins": bins, "strides": list(detections.STRIDES)}
        return {"output": {**described, "activation": "sigmoid"}, "postprocess": dict(self._told)}


def made(seen: Input) -> Floats:
    """Return inputs (n, 3, H, W) of pictures that nobody took: patches of colour, from large ones to noise; always the same."""
    random = np.random.default_rng(0)
    size = seen.size_px
    pictures = np.zeros((_MADE_PICTURES, 3, size, size), dtype=np.float64)
    for cells in (3, 9, 27, size):
        side = -(-size // cells)
        patches = random.random((_MADE_PICTURES, 3, cells, cells))
        pictures += np.kron(patches, np.ones((1, 1, side, side)))[..., :size, :size]
    return seen.normalise(np.asarray(pictures / 4 * 255, dtype=np.uint8))


def gathered(spec: Mapping[str, Any]) -> tuple[SeenEvidence, Floats | None]:
    """Return what a build job's spec names: the evidence, and training pictures to calibrate on, None where there are none."""
    about, expected = spec["manifest"], np.load(spec["expected"])
    told = spec.get("told")
    if not spec["data"]:
        return MadeEvidence(Input.of(spec["input"]), expected, about, told or {}), None
    # Torch takes seconds to load, and is not needed without pictures.
    from milonga_hub.learning.tasks import opened

    task = opened(spec["data"], about["size_px"], told)
    # A network from elsewhere has its own input, and its own classes in its own order.
    seen = Input.of(spec["input"]) if "input" in spec else task.input(about["size_px"])
    evidence = TaskEvidence(seen, expected, task, spec["subnet_accuracy"], about["classes"])
    # Training pictures, never those that prove the build, chosen alike for equal seeds.
    return evidence, task.calibrating(seen, spec["calibration_count"], spec["seed"])
