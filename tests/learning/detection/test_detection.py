"""Detection from pictures to a checkpoint that ultralytics takes as its own."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("ultralytics", reason="detection needs: pip install 'milonga-hub[yolo]'")
pytest.importorskip("skimage", reason="the pictures are scikit-image's")

from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.detection import Detection
from milonga_hub.learning.detection_loss import class_weights
from milonga_hub.learning.spaces.yolo import Yolo
from milonga_hub.learning.spaces.yolo_network import write_checkpoint
from milonga_hub.learning.task import runner
from milonga_hub.learning.train import Trainer, subnet
from milonga_hub.learning.ultralytics_offline import suppressed

from tests.digits_scenes import write

_SIDE = 64


@dataclass
class Trained:
    """A supernet that has seen few pictures, and one of its subnets."""

    data: Path
    task: Detection
    space: Yolo
    trainer: Trainer
    network: nn.Module
    resolution_px: int


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("digits")
    data = write(folder / "data", train=32, val=8, seed=0, size_px=_SIDE, classes=3)
    task, space = Detection(data, _SIDE, {"fliplr": 0.0}), Yolo(_SIDE, width=0.125)
    recipe = Recipe(
        "yolo", _SIDE, epochs=4, batch_size=16, learning_rate=0.2, seed=0, random_subnets=1, precision="fp32"
    )
    trainer = Trainer(task, space, recipe, folder / "supernet.pt")
    trainer.run()
    chosen = space.encoded({"p3.operation": "C3Ghost", "p4.operation": "C2fCIB", "neck1.width": 0.5, "p5.width": 0.5})
    return Trained(data, task, space, trainer, subnet(trainer.supernet, chosen, task), space.resolution(chosen))


def test_training_a_supernet_lowers_the_loss(trained: Trained) -> None:
    losses = [point.loss for point in trained.trainer.history]
    assert losses[-1] < losses[0]
    assert all(np.isfinite(losses))


# What a torchvision that suits its torch needs no lines for.
_FRESH = """
import json, sys, torch
try:
    import torchvision
except RuntimeError:
    from ultralytics.utils.nms import TorchNMS
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", TorchNMS.nms, "CompositeExplicitAutograd")
    import torchvision
    torchvision.extension._has_ops = lambda: True
from ultralytics import YOLO
torch.set_num_threads(1)
weights, data, picture, pictures, outputs, folder = sys.argv[1:]
model = YOLO(weights)
assert not any("milonga" in name for name in sys.modules)
with torch.no_grad():
    # In double precision, where the order of sums, which differs by machine and threads, does not show.
    raw = model.model.eval().double()(torch.load(pictures).double())[0]
torch.save(raw, outputs)
model = YOLO(weights)
found = model.predict(picture, conf=0.0001, verbose=False, save=False)
valued = YOLO(weights).val(data=data, rect=False, plots=False, verbose=False, workers=0, project=folder, name="val")
exported = YOLO(weights).export(format="onnx", simplify=False)
print("told " + json.dumps({
    "names": list(model.names.values()), "boxes": len(found[0].boxes), "size": list(found[0].orig_shape),
    "map": float(valued.box.map), "onnx": str(exported), "imgsz": model.overrides["imgsz"],
    "widths": model.model.yaml["backbone"][8],
}))
"""


def test_a_checkpoint_is_ultralytics_own_in_a_process_without_this_project(trained: Trained, tmp_path: Path) -> None:
    weights = tmp_path / "subnet.pt"
    write_checkpoint(trained.network, trained.task.names, weights)
    pictures = torch.rand(2, 3, trained.resolution_px, trained.resolution_px)
    torch.save(pictures, tmp_path / "pictures.pt")
    given = trained.data.parent / "images" / "val" / "00000.png"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            _FRESH,
            weights,
            trained.data,
            given,
            *(tmp_path / f for f in ("pictures.pt", "raw.pt", "")),
        ],
        env={**environment, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    found: dict[str, Any] = json.loads(told.stdout.split("told ")[-1].splitlines()[0])
    assert found["names"] == ["digit 0", "digit 1", "digit 2"]
    assert found["boxes"] > 0 and found["size"] == [_SIDE, _SIDE]
    assert found["imgsz"] == trained.resolution_px
    with torch.no_grad():
        ours = copy.deepcopy(trained.network).double()(pictures.double())[0]
    # Networks whose outputs are the same everywhere would hide mistakes.
    assert (ours.std(dim=2) > 1e-6).all()
    assert torch.allclose(torch.load(tmp_path / "raw.pt"), ours, rtol=0, atol=1e-9)
    assert found["map"] == pytest.approx(_judged(trained), abs=2e-3)
    _same_in_onnx(Path(found["onnx"]), pictures[:1], ours[:1])


def _judged(trained: Trained) -> float:
    return trained.task.evaluate(runner(trained.space.deployed(trained.network)), trained.resolution_px)


def _same_in_onnx(path: Path, pictures: torch.Tensor, ours: torch.Tensor) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {session.get_inputs()[0].name: pictures.numpy()})[0]
    # Exporting folds normalisations into convolutions: boxes are in pixels, scores below 1.
    assert np.abs(theirs - ours.numpy()).max() < 1e-3


def test_a_checkpoint_needs_a_name_for_each_class(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 class names for a network of 3 classes"):
        write_checkpoint(trained.network, ["one", "two"], tmp_path / "subnet.pt")


def test_an_epoch_repeats_itself_from_the_same_generator_and_leaves_other_randomness_alone(trained: Trained) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (list(trained.task.batches(10, torch.Generator().manual_seed(3))) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for (pictures, targets), (others, their_targets) in zip(first, second, strict=True):
        assert torch.equal(pictures, others)
        assert all(torch.equal(one, their_targets[key]) for key, one in targets.items())
    pictures, targets = first[0]
    assert pictures.shape[1:] == (3, _SIDE, _SIDE) and pictures.min() >= 0 and pictures.max() <= 1
    assert targets["bboxes"].min() >= 0 and targets["bboxes"].max() <= 1


def test_a_part_of_a_batch_has_the_boxes_of_its_pictures(trained: Trained) -> None:
    pictures, targets = next(trained.task.batches(8, torch.Generator().manual_seed(0)))
    part, of_part = trained.task.part(pictures, targets, 3, 6)
    assert torch.equal(part, pictures[3:6])
    for number in range(3):
        theirs = targets["bboxes"][targets["batch_idx"] == number + 3]
        assert torch.equal(of_part["bboxes"][of_part["batch_idx"] == number], theirs)


@pytest.mark.parametrize("family", ["yolov8", "yolo26"])
def test_the_largest_subnet_teaches_boxes_and_classes_to_smaller_pictures(trained: Trained, family: str) -> None:
    from milonga_hub.learning.supernet import Supernet

    torch.manual_seed(0)
    # With 64 pixels at most there is no smaller resolution.
    space = Yolo(96, family, 0.125)
    supernet = Supernet(space, 3)
    pictures, targets = next(trained.task.batches(4, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        taught = supernet(pictures, space.largest())
    learned = trained.task.distilled(supernet(pictures, space.smallest()), taught, targets)
    assert space.resolution(space.smallest()) < 96
    learned.backward()
    grads = [one.grad for one in supernet.parameters() if one.grad is not None]
    assert torch.isfinite(learned) and grads and all(torch.isfinite(one).all() for one in grads)


def test_what_is_taught_at_another_size_names_the_same_places() -> None:
    from milonga_hub.learning.detection_loss import _fitted

    maps = [torch.zeros(1, 1, 8, 8)]
    # Boxes that all reach to the picture's edges: distances in cells of the middle of each cell.
    middles = torch.arange(8) + 0.5
    left = middles.view(1, 8).expand(8, 8)
    distances = torch.stack([left, left.T, 8 - left, 8 - left.T]).flatten(1)[None]
    fitted = _fitted(distances, maps, [(4, 4)], True)
    middles = torch.arange(4) + 0.5
    left = middles.view(1, 4).expand(4, 4)
    assert torch.allclose(fitted, torch.stack([left, left.T, 4 - left, 4 - left.T]).flatten(1)[None])


def test_suppression_keeps_the_boxes_that_ultralytics_keeps() -> None:
    from ultralytics.utils.nms import TorchNMS

    generator = torch.Generator().manual_seed(0)
    for count in (0, 1, 7, 300, 1500):
        boxes = torch.rand(count, 4, generator=generator) * 100
        boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:] * 0.4
        scores = torch.rand(count, generator=generator)
        for threshold in (0.3, 0.7):
            assert torch.equal(suppressed(boxes, scores, threshold), TorchNMS.nms(boxes, scores, threshold))


def test_classes_of_unlike_size_are_weighted() -> None:
    assert class_weights([10, 12]) is None
    weights = class_weights([1, 100, 0])
    assert weights is not None and weights[0] > weights[2] > weights[1]
    assert weights.mean() == pytest.approx(1.0)


def test_twenty_pictures_of_one_class_in_unlike_sizes_and_modes_are_enough(tmp_path: Path) -> None:
    data = write(tmp_path / "data", train=20, val=4, seed=1, size_px=80, classes=1)
    for number, (mode, size) in enumerate([("L", (200, 50)), ("RGBA", (50, 120)), ("P", (33, 64)), ("RGB", (17, 300))]):
        path = tmp_path / "data" / "images" / "train" / f"{number:05}.png"
        Image.open(path).convert(mode).resize(size).save(path)
    (tmp_path / "data" / "labels" / "train" / "00005.txt").write_text("")
    (tmp_path / "data" / "labels" / "train" / "00006.txt").unlink()
    task = Detection(data, _SIDE)
    assert task.classes == 1 and task.count == 20 and len(task.data.notes) == 1
    space = Yolo(_SIDE, "yolo11", 0.125)
    recipe = Recipe(
        "yolo", _SIDE, epochs=1, batch_size=8, learning_rate=0.1, seed=0, random_subnets=0, precision="fp32"
    )
    history = Trainer(task, space, recipe, tmp_path / "supernet.pt").run()
    assert np.isfinite(history[0].loss) and 0 <= history[0].accuracy_largest <= 1
    assert not list((tmp_path / "data").rglob("*.cache"))


def test_pictures_are_told_by_all_classes_that_they_show(trained: Trained) -> None:
    shown = trained.task.shown
    assert shown.shape == (8, 3)
    for row, one in zip(shown, trained.task.data.val, strict=True):
        assert set(np.flatnonzero(row)) == {int(each) for each in one.classes}


def test_a_missing_ultralytics_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ultralytics'] = None\n"
        "try:\n    import milonga_hub.learning.detection\n"
        "except ImportError as error:\n    print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "pip install 'milonga-hub[yolo]'" in told.stdout


def test_losses_in_half_precision_are_those_in_full_but_for_rounding(trained: Trained) -> None:
    pictures, targets = next(trained.task.batches(8, torch.Generator().manual_seed(0)))
    outputs = copy.deepcopy(trained.network).cpu().train()(pictures)
    half = {head: {key: _half(value) for key, value in one.items()} for head, one in outputs.items()}
    full, rounded = trained.task.loss(outputs, targets), trained.task.loss(half, targets)
    assert torch.allclose(full, rounded.float(), rtol=0.02)


def _half(value: Any) -> Any:
    return [one.bfloat16() for one in value] if isinstance(value, list) else value.bfloat16()
