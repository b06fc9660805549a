"""Trained networks at the sizes that people use, each with the file that they would export of it today."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from milonga_compiler.backends.base import Floats
from milonga_hub.builds.evidence_for_job import TaskEvidence
from milonga_hub.learning.checkpoint import Checkpoint, Recipe
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.detection import Detection
from milonga_hub.learning.export import OPSET, export
from milonga_hub.learning.spaces import Encoding, Space, space
from milonga_hub.learning.spaces.fixed import Fixed, levels
from milonga_hub.learning.spaces.yolo import Yolo
from milonga_hub.learning.task import Task, runner
from milonga_hub.learning.train import subnet
from PIL import Image
from torch import nn

from benchmarks._digits import checkpoint, trained
from benchmarks._found import CLASSES
from tests.digits_scenes import write

CLASSIFIED_PX, DETECTED_PX = 224, 320
_CALIBRATED = 64


@dataclass(frozen=True)
class Kind:
    """One subnet: of which space and how trained; the fastest build may take `goal` of the time of the default export."""

    title: str
    family: Callable[[], Space]
    choose: Callable[[Space], Encoding]
    epochs: int
    learning_rate: float
    goal: float


@dataclass(frozen=True)
class Data:
    """Both tasks at full size, and how much of their training is done: 1 is what the figures are for."""

    classification: Classification
    detection: Detection
    effort: float = 1.0

    def task(self, kind: Kind) -> Task:
        return self.detection if kind.family().task == "detection" else self.classification


@dataclass(frozen=True)
class Subject:
    """A trained network: our ONNX file, the default export, and what builds are proved with."""

    kind: Kind
    onnx: Path
    default: Path
    size_px: int
    evidence: TaskEvidence
    calibration: Floats

    @property
    def detects(self) -> bool:
        return self.evidence.task.measure != "accuracy"


def _scaled(ratio: float) -> Callable[[Space], Encoding]:
    def choose(family: Space) -> Encoding:
        from benchmarks.detection import scaled

        return scaled(family, ratio)

    return choose


# Plain convolutions shall be four times as fast, YOLO one and a half; networks of squeeze-and-excite and hard swish gain nothing
# by int8, so that there it only must not be slower.
KINDS: Sequence[Kind] = (
    Kind("resnet small", lambda: space("resnet", CLASSIFIED_PX), lambda family: levels(family)[0], 6, 0.2, 1 / 4),
    Kind("resnet middle", lambda: space("resnet", CLASSIFIED_PX), lambda family: levels(family)[2], 4, 0.2, 1 / 4),
    Kind("mobilenet", lambda: space("mbv3", CLASSIFIED_PX), lambda family: levels(family)[1], 6, 0.2, 1.05),
    Kind("yolo26n", lambda: Yolo(DETECTED_PX, "yolo26", 0.5), _scaled(0.5), 8, 0.0, 1 / 1.5),
    Kind("yolo26 wider", lambda: Yolo(DETECTED_PX, "yolo26", 0.5), _scaled(0.75), 6, 0.0, 1 / 1.5),
)


def data(folder: Path, pictures: int, judged: int, effort: float = 1.0) -> Data:
    """Return digits at 224 px to classify, and digits on photographs at 320 px to find."""
    scenes = folder / "scenes" / "data.yaml"
    # It is written last.
    if not scenes.exists():
        shutil.rmtree(scenes.parent, ignore_errors=True)
        write(scenes.parent, pictures, judged, 0, DETECTED_PX)
    detection = Detection(scenes, DETECTED_PX, {"fliplr": 0.0, "mosaic": 0.0})
    return Data(Classification(load(digits(folder / "digits.npz", pictures, judged))), detection, effort)


def subject(kind: Kind, among: Data, folder: Path) -> Subject:
    """Train the network by itself, on from where an earlier run ended in the folder, and export it both ways."""
    folder.mkdir(exist_ok=True)
    family, task = kind.family(), among.task(kind)
    alone = Fixed(family, kind.choose(family))
    size_px = alone.resolution(alone.largest())
    recipe = Recipe(family.name, size_px, 1, 16, kind.learning_rate, 0, random_subnets=0)
    small = replace(recipe, epochs=max(1, round(kind.epochs * among.effort)))
    supernet = trained(alone, task, recipe, folder, kind.title, _in_small(kind, alone, task, small, folder))
    network = subnet(supernet, alone.largest(), task)
    deployed, seen = alone.deployed(network), task.input(size_px)
    export(deployed, size_px, folder / "network.onnx", family.output)
    outputs = np.concatenate([runner(deployed)(part) for part in task.validation(seen)])
    judge = task.judge(seen)
    judge.add(outputs)
    evidence = TaskEvidence(seen, outputs, task, judge.accuracy())
    default = _default(alone, network, size_px, task.names, folder)
    return Subject(kind, folder / "network.onnx", default, size_px, evidence, task.calibrating(seen, _CALIBRATED, 0))


def _in_small(kind: Kind, whole: Fixed, of: Task, recipe: Recipe, folder: Path) -> Path:
    """Return a checkpoint to go on from: the network trained with pictures of the fewest pixels, at 0.4 of the cost of a step.

    Its last epoch is at the whole size (progressive resizing: Tan and Le 2021, "EfficientNetV2", section 4).
    """
    small, name = Fixed(whole.family, (0, *whole.encoding[1:])), f"{kind.title} in small"
    trained(small, of, replace(recipe, resolution_px=small.resolution(small.largest())), folder, name)
    base = folder / "base.pt"
    replace(Checkpoint.read(checkpoint(folder, name)), space=whole.settings).write(base)
    return base


def _default(alone: Space, network: nn.Module, size_px: int, names: Sequence[str], folder: Path) -> Path:
    """Return what people export: ultralytics' own defaults for its families, else torch's with nothing folded."""
    path = folder / "default.onnx"
    if alone.publish(network, names, folder / "default.pt"):
        from ultralytics import YOLO

        shutil.move(YOLO(folder / "default.pt").export(format="onnx", imgsz=size_px), path)
        return path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.zeros(1, 3, size_px, size_px),), str(path), dynamo=False, opset_version=OPSET,
            input_names=["image"], output_names=["logits"],
        )  # fmt: skip
    return path


def digits(path: Path, train: int, judged: int, size_px: int = CLASSIFIED_PX) -> Path:
    """Write scikit-learn's digits, enlarged; those to judge by are others than those to learn from."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    border = len(order) * 2 // 3
    arrays: dict[str, np.ndarray] = {"classes": np.array([str(digit) for digit in range(CLASSES)])}
    for split, chosen in (("train", order[: min(train, border)]), ("val", order[border : border + judged])):
        large = [_enlarged(found.images[index], size_px) for index in chosen]
        arrays |= {
            f"x_{split}": np.stack(large),
            f"y_{split}": found.target[chosen],
            f"added_{split}": np.ones(len(chosen)),
        }
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def _enlarged(image: np.ndarray, size_px: int) -> np.ndarray:
    grey = Image.fromarray((image * 15.9).astype(np.uint8)).resize((size_px,) * 2, Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(grey)[None], 3, axis=0)
