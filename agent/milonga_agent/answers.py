"""What a network's output means to people who ask: classes or boxes, as the bundle's manifest says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
from milonga import detections, pictures
from milonga.inputs import Placement
from numpy.typing import NDArray

from milonga_agent.errors import BadBundle
from milonga_agent.runtimes.base import Floats


@dataclass(frozen=True)
class Output:
    """One output tensor: "FP32", "INT32" or "BYTES", and its shape, -1 where it depends on the request."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """The values of all outputs by name, and for telemetry the confidence and class number of each thing answered."""

    values: Mapping[str, Any]
    confidences: Floats
    classes: NDArray[np.int64]
    # How long the engine took.
    milliseconds: float = 0.0
    # What the last layer but one makes of each picture (n, d), where the bundle gives that.
    embeddings: Floats | None = None


class Answering(ABC):
    """Turns the output (n, ...) for n pictures into answers."""

    outputs: tuple[Output, ...]

    @abstractmethod
    def answer(self, output: Floats, placements: Sequence[Placement]) -> Answer:
        """Return the answers; the placements say where each picture lies in the network's input."""


class Classes(Answering):
    """Classification: the likeliest class of each picture, "probabilities" and "logits" (n, classes)."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._names = [str(name) for name in manifest["classes"]]
        wide = (-1, len(self._names))
        self.outputs = (
            Output("class", "BYTES", (-1,)),
            Output("probabilities", "FP32", wide),
            Output("logits", "FP32", wide),
        )

    def answer(self, output: Floats, placements: Sequence[Placement]) -> Answer:
        probabilities = pictures.softmax(output)
        likeliest = probabilities.argmax(axis=1)
        named = [self._names[index] for index in likeliest]
        values = {"class": named, "probabilities": probabilities, "logits": output}
        return Answer(values, probabilities.max(axis=1), likeliest)


class Boxes(Answering):
    """Detection: all objects of all pictures, one picture after the other, the surest of each first.

    "count" (n,) says how many are of each picture; "boxes" (m, 4) are corners x1, y1, x2, y2 in pixels of the picture as it
    was sent, "scores" (m,) from 0 to 1, "class" (m,) names.
    """

    outputs = (
        Output("count", "INT32", (-1,)),
        Output("boxes", "FP32", (-1, 4)),
        Output("scores", "FP32", (-1,)),
        Output("class", "BYTES", (-1,)),
    )

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._names = [str(name) for name in manifest["classes"]]
        self._size_px = int(manifest["input"]["size_px"])
        self._strides = [int(stride) for stride in manifest["output"]["strides"]]
        self._post = detections.Postprocess.of(manifest["postprocess"])

    def answer(self, output: Floats, placements: Sequence[Placement]) -> Answer:
        found = [detections.find(one, len(self._names), self._size_px, self._post, self._strides) for one in output]
        boxes = [placement.original(one.boxes) for one, placement in zip(found, placements)]
        # What lies in the padding around the picture is cut off whole.
        seen = [detections.with_area(one) for one in boxes]
        boxes = [one[inside] for one, inside in zip(boxes, seen)]
        scores = np.concatenate([one.scores[inside] for one, inside in zip(found, seen)])
        classes = np.concatenate([one.classes[inside] for one, inside in zip(found, seen)])
        values = {
            "count": np.array([len(one) for one in boxes], dtype=np.int32),
            "boxes": np.concatenate(boxes),
            "scores": scores,
            "class": [self._names[index] for index in classes],
        }
        return Answer(values, scores, classes)


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Answering]] = {"classification": Classes, "detection": Boxes}


def answering(manifest: Mapping[str, Any]) -> Answering:
    """Return what answers for the manifest's task. Raises BadBundle for one that this agent does not know."""
    task = manifest.get("task", "classification")
    if task not in _KINDS:
        raise BadBundle(f"this agent knows no task {task!r}; it knows {', '.join(_KINDS)}; update the agent")
    return _KINDS[task](manifest)
