"""What detectors' outputs come to: mAP50-95 by ultralytics' validator, and how well pictures are answered as served."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch
from milonga import detections, pictures
from milonga.embeddings import described
from milonga.inputs import Input
from milonga_compiler.backends.base import Floats
from numpy.typing import NDArray

from milonga_hub.learning import ultralytics_offline  # noqa: F401  must come before ultralytics
from milonga_hub.learning.judged import MOST_BOXES, examples_of_boxes, of_boxes
from milonga_hub.learning.resampled import Precisions, gains
from milonga_hub.learning.task import PictureJudge

# isort: split
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils.metrics import ap_per_class

# COCO's ten thresholds of overlap, 0.5 to 0.95.
_OVERLAPS = 10
# A chance of 0.05 is then told from one of 0.03 or 0.07.
_DRAWS = 500


class DetectionJudge(PictureJudge):
    """Judges outputs (n, 4 bins + classes, anchors) on pictures whose objects are known."""

    measure = "mAP50-95"
    takes_embeddings = True

    def __init__(
        self,
        objects: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        seen: Input,
        names: Sequence[str],
        known_names: Sequence[str],
        reference: Callable[[], Mapping[str, list[int]]],
        held_back: NDArray[np.bool_],
        post: detections.Postprocess = detections.Postprocess(),
    ) -> None:
        """`objects` are for each picture classes (k,), by their place in `known_names`, and boxes (k, 4) in the input.

        `names` are the network's classes; what it finds of classes that are not known is wrong. `reference`
        describes the pictures; it is called for manifests alone, since all pictures must be looked at. `post` says which
        boxes devices tell.
        """
        self.held_back = held_back
        self._seen, self._reference, self._classes = seen, reference, len(names)
        index = {name: number for number, name in enumerate(names)}
        # In the network's own numbers; classes that it does not know get numbers behind them.
        numbers = np.array(
            [index.get(name, len(index) + place) for place, name in enumerate(known_names)], dtype=np.float32
        )
        self._objects = [(numbers[classes.astype(np.int64)], boxes) for classes, boxes in objects]
        self._validator = _validator(seen.size_px)
        self._post = post
        # Of each picture: right by overlap (m, 10), confidence (m,), class (m,), classes of objects (k,).
        self._stats: list[tuple[NDArray[np.bool_], Floats, Floats, NDArray[np.float32]]] = []
        self._scores: list[float] = []
        # What a device would tell of each picture: corners in pixels of the input, confidence and class, the surest of them.
        self._told: list[Floats] = []
        self._confidences: list[float] = []
        self._counts = np.zeros(len(names), dtype=np.int64)
        self._shape: tuple[int, ...] = ()
        self._embeddings: list[Floats] = []

    def embedded(self, embeddings: Floats) -> None:
        self._embeddings.append(embeddings)

    def add(self, outputs: Floats) -> None:
        self._shape = outputs.shape[1:]
        for output in outputs:
            # Down to the lowest scores, and several classes for a box, as mAP asks. Picture by picture: of several at a time
            # ultralytics leaves those out that a slow machine has not come to in 50 ms each.
            (ranked,) = self._validator.postprocess(torch.from_numpy(self._decoded(output)[None]))
            classes, boxes = self._objects[len(self._stats)]
            found = {**ranked, "cls": ranked["cls"].float()}
            right = self._right(found, classes, boxes)
            self._stats.append((right, found["conf"].numpy(), found["cls"].numpy(), classes))
            self._add_served(output, classes, boxes)

    def _decoded(self, output: Floats) -> Floats:
        """Return (4 + classes, anchors) as ultralytics' suppression takes it: centres, sizes and scores."""
        maps = output[: len(output) - self._classes]
        corners = detections.boxes_of(maps, self._seen.size_px)
        low, high = corners[:, :2], corners[:, 2:]
        scores = detections.sigmoid(output[len(maps) :])
        return np.concatenate([((low + high) / 2).T, (high - low).T, scores]).astype(np.float32)

    def _right(
        self, found: Mapping[str, torch.Tensor], classes: NDArray[np.float32], boxes: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        known = {"cls": torch.from_numpy(classes), "bboxes": torch.from_numpy(boxes)}
        matched: NDArray[np.bool_] = self._validator._process_batch(found, known)["tp"]
        return matched

    def _add_served(self, output: Floats, classes: NDArray[np.float32], boxes: NDArray[np.float32]) -> None:
        """Count what a device would tell of the picture, and score it: F1, the mean over all overlaps."""
        told = detections.find(output, self._classes, self._seen.size_px, self._post)
        self._confidences.extend(told.scores.tolist())
        few = slice(None, MOST_BOXES)
        self._told.append(np.column_stack([told.boxes[few], told.scores[few], told.classes[few]]).astype(np.float32))
        self._counts += np.bincount(told.classes, minlength=len(self._counts))
        found = {
            "bboxes": torch.from_numpy(told.boxes),
            "conf": torch.from_numpy(told.scores),
            "cls": torch.from_numpy(told.classes).float(),
        }
        right = self._right(found, classes, boxes)
        most = len(told.boxes) + len(classes)
        self._scores.append(1.0 if not most else float(2 * right.sum() / (_OVERLAPS * most)))

    def scores(self) -> NDArray[np.float64]:
        return np.array(self._scores)

    def accuracy_of(self, chosen: NDArray[np.bool_]) -> float:
        """Return mAP50-95, the mean over the classes that the chosen pictures show; 0 where they show none."""
        figures, _ = self._figures([stats for stats, taken in zip(self._stats, chosen, strict=True) if taken])
        return 0.0 if figures is None else float(figures[5].mean())

    def gains(self, champion: PictureJudge, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        if not isinstance(champion, DetectionJudge):
            raise TypeError(f"boxes are not compared with what {type(champion).__name__} judges")
        ours, theirs = (
            [each for each, taken in zip(judge._stats, chosen, strict=True) if taken] for judge in (self, champion)
        )
        return gains(Precisions(ours), Precisions(theirs), len(ours), _DRAWS)

    def _figures(self, some: Sequence[Any]) -> tuple[Any, NDArray[np.float32]]:
        """Return what ultralytics says of these pictures, None where nothing is right, and the classes of all objects."""
        right, confidence, predicted, target = (np.concatenate(parts) for parts in zip(*some, strict=True))
        return (ap_per_class(right, confidence, predicted, target) if right.any() else None), target

    def _judged(self) -> dict[str, Any]:
        figures, target = self._figures(self._stats)
        shown = {"examples": examples_of_boxes(self._told, self.scores())}
        return shown if figures is None else {**of_boxes(figures, target.astype(np.int64), self._classes), **shown}

    def entries(self) -> Mapping[str, Any]:
        bins = (self._shape[0] - self._classes) // 4
        cells, counted = described(self._embeddings)
        return {
            **cells,
            "output": {
                "name": "maps",
                "shape": [1, *self._shape],
                "bins": bins,
                "strides": list(detections.STRIDES),
                "activation": "sigmoid",
            },
            "postprocess": self._post.described(),
            "judged": self._judged(),
            "statistics_of": pictures.OF_INPUTS,
            "reference": {
                **self._reference(),
                "confidence": pictures.histogram("confidence", self._confidences),
                "class_counts": self._counts.tolist(),
                "sample_count": len(self._stats),
                **counted,
            },
        }


def _validator(size_px: int) -> DetectionValidator:
    """Return ultralytics' validator for its rules alone: its own loop would write files and fuse the network's layers."""
    settings = {"task": "detect", "mode": "val", "imgsz": size_px, "plots": False, "verbose": False}
    judge = DetectionValidator(save_dir=Path(gettempdir()), args=settings)
    judge.device, judge.end2end = torch.device("cpu"), False
    return judge
