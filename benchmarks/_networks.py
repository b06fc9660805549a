"""Trained networks at the sizes that people use, each with the file that they would export of it today.

What was trained is kept in a folder by the digest of how, and taken from there the next time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from milonga_compiler.backends.base import Floats
from milonga_compiler.files import write_atomically
from milonga_hub.builds.evidence_for_job import TaskEvidence
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.detection import Detection
from milonga_hub.learning.export import OPSET, export
from milonga_hub.learning.spaces import Encoding, Space, space
from milonga_hub.learning.spaces.base import RESOLUTION, Dimension
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
_FINISHED = "finished.json"


@dataclass(frozen=True)
class Kind:
    """One subnet: of which space and how trained; the fastest build may take `goal` of the time of the default export.

    It learns in steps of so many pixels, epochs and pictures at a time, from small pictures to its own size (0): early epochs cost a tenth then, and
    what they found is found again in larger ones (progressive resizing: Tan and Le 2021, "EfficientNetV2", section 4).
    """

    title: str
    family: Callable[[], Space]
    choose: Callable[[Space], Encoding]
    steps: Sequence[tuple[int, int, int]]
    learning_rate: float
    goal: float


@dataclass(frozen=True)
class Data:
    """Both tasks at full size, of so many pictures, and how much of their training is done: 1 is what the figures are for."""

    classification: Classification
    detection: Detection
    pictures: int
    judged: int
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


_CLASSIFYING, _DETECTING = ((64, 8, 16), (128, 3, 16), (0, 1, 16)), ((96, 12, 8), (160, 3, 8), (0, 1, 8))
# Plain convolutions shall be four times as fast, YOLO one and a half; networks of squeeze-and-excite and hard swish gain nothing
# by int8, so that there it only must not be slower.
KINDS: Sequence[Kind] = (
    Kind(
        "resnet small",
        lambda: space("resnet", CLASSIFIED_PX),
        lambda family: levels(family)[0],
        _CLASSIFYING,
        0.2,
        1 / 4,
    ),
    Kind(
        "resnet middle",
        lambda: space("resnet", CLASSIFIED_PX),
        lambda family: levels(family)[2],
        _CLASSIFYING,
        0.2,
        1 / 4,
    ),
    Kind("mobilenet", lambda: space("mbv3", CLASSIFIED_PX), lambda family: levels(family)[1], _CLASSIFYING, 0.2, 1.05),
    Kind("yolo26n", lambda: Yolo(DETECTED_PX, "yolo26", 0.5), _scaled(0.5), _DETECTING, 0.0, 1 / 1.5),
    Kind("yolo26 wider", lambda: Yolo(DETECTED_PX, "yolo26", 0.5), _scaled(0.75), _DETECTING, 0.0, 1 / 1.5),
)


def data(folder: Path, pictures: int, judged: int, effort: float = 1.0) -> Data:
    """Return digits at 224 px to classify, and digits on photographs at 320 px to find."""
    scenes = folder / "scenes" / "data.yaml"
    # It is written last.
    if not scenes.exists():
        shutil.rmtree(scenes.parent, ignore_errors=True)
        write(scenes.parent, pictures, judged, 0, DETECTED_PX)
    detection = Detection(scenes, DETECTED_PX, {"fliplr": 0.0, "mosaic": 0.0})
    classification = Classification(load(digits(folder / "digits.npz", pictures, judged)))
    return Data(classification, detection, pictures, judged, effort)


def subject(kind: Kind, among: Data, place: Path) -> Subject:
    """Train the network by itself and export it both ways, on from where an earlier run with the same recipe ended."""
    family, task = kind.family(), among.task(kind)
    alone = Fixed(family, kind.choose(family))
    size_px = alone.resolution(alone.largest())
    recipes = [
        Recipe(
            family.name,
            small_px or size_px,
            max(1, round(epochs * among.effort)),
            batch_size,
            kind.learning_rate,
            seed=0,
            random_subnets=0,
        )
        for small_px, epochs, batch_size in kind.steps
    ]
    told = [alone.settings, [asdict(recipe) for recipe in recipes], among.pictures, among.judged]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    folder = place / f"{kind.title.replace(' ', '-')}-{digest[:12]}"
    folder.mkdir(exist_ok=True)
    if not (folder / _FINISHED).exists():
        _make(kind, alone, task, recipes, folder)
    finished, seen = json.loads((folder / _FINISHED).read_text(encoding="utf-8")), task.input(size_px)
    evidence = TaskEvidence(seen, np.load(folder / "outputs.npy"), task, finished["accuracy"])
    calibration = task.calibrating(seen, _CALIBRATED, 0)
    return Subject(kind, folder / "network.onnx", folder / finished["default"], size_px, evidence, calibration)


def _make(kind: Kind, alone: Fixed, task: Task, recipes: Sequence[Recipe], folder: Path) -> None:
    """Write the network, its default export and what it makes of the validation pictures; last of all how good that is."""
    base, size_px = None, recipes[-1].resolution_px
    for recipe in recipes:
        name = f"{kind.title} at {recipe.resolution_px} px"
        supernet = trained(_Shrunk(alone, recipe.resolution_px), task, recipe, folder, name, base)
        base = checkpoint(folder, name)
    network = subnet(supernet, alone.largest(), task)
    deployed, seen = alone.deployed(network), task.input(size_px)
    export(deployed, size_px, folder / "network.onnx", alone.output)
    outputs = np.concatenate([runner(deployed)(part) for part in task.validation(seen)])
    np.save(folder / "outputs.npy", outputs)
    judge = task.judge(seen)
    judge.add(outputs)
    default = _default(alone, network, size_px, task.names, folder)
    write_atomically(folder / _FINISHED, json.dumps({"accuracy": judge.accuracy(), "default": default.name}))


class _Shrunk(Fixed):
    """The same network over pictures of other pixels than its family offers."""

    def __init__(self, whole: Fixed, size_px: int) -> None:
        super().__init__(whole.family, whole.encoding)
        self._size_px = size_px

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        return (Dimension(RESOLUTION, (self._size_px,)),)


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
