"""What a detector's output means is the same everywhere: on devices, in builds, in ultralytics."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from milonga import detections
from milonga.detections import Found, Postprocess, find
from milonga.inputs import Input, Resize
from PIL import Image

pytest.importorskip("ultralytics", reason="detection needs: pip install 'milonga-hub[yolo]'")
pytest.importorskip("skimage", reason="the pictures are scikit-image's")

from milonga_hub.learning.detection import Detection
from milonga_hub.learning.spaces.yolo import Yolo
from milonga_hub.learning.task import Mixed
from milonga_hub.learning.tasks import opened

from tests.digits_scenes import write

SIZE_PX, CLASSES = 64, 3


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write(tmp_path_factory.mktemp("scenes") / "data", train=8, val=6, seed=0, size_px=80, classes=CLASSES)
    for number, size in enumerate([(80, 48), (33, 80)]):
        path = data.parent / "images" / "val" / f"{number:05}.png"
        Image.open(path).resize(size).save(path)
    return data


@pytest.fixture(scope="module")
def task(scenes: Path) -> Detection:
    return Detection(scenes, SIZE_PX)


def _raw(seed: int, bins: int = 1, classes: int = CLASSES) -> np.ndarray:
    """Return random maps with some sure objects, overlapping ones among them."""
    source = np.random.default_rng(seed)
    anchors = detections.anchor_count(SIZE_PX)
    maps = source.normal(1.0, 1.0, (4 * bins, anchors)) if bins > 1 else source.uniform(0.2, 3.0, (4, anchors))
    return np.concatenate([maps, source.normal(-1.5, 2.0, (classes, anchors))]).astype(np.float32)


def _decoded_by_ultralytics(raw: np.ndarray, bins: int) -> torch.Tensor:
    from ultralytics.nn.modules import Detect

    head = Detect(CLASSES, bins, False, (8, 8, 8)).eval()
    head.stride = torch.tensor([8.0, 16.0, 32.0])
    feats = [torch.zeros(1, 8, SIZE_PX // stride, SIZE_PX // stride) for stride in detections.STRIDES]
    given = torch.from_numpy(raw)[None]
    with torch.no_grad():
        found: torch.Tensor = head._inference(
            {"boxes": given[:, : 4 * bins], "scores": given[:, 4 * bins :], "feats": feats}
        )
    return found


@pytest.mark.parametrize("bins", [1, 16])
@pytest.mark.parametrize("seed", range(20))
def test_boxes_on_a_device_are_those_that_ultralytics_finds(seed: int, bins: int) -> None:
    from ultralytics.utils.nms import non_max_suppression

    raw = _raw(seed, bins)
    (theirs,) = non_max_suppression(_decoded_by_ultralytics(raw, bins), 0.25, 0.7, max_det=300)
    ours = find(raw, CLASSES, SIZE_PX)
    assert len(ours.boxes) > 20
    wanted = Found(theirs[:, :4].numpy(), theirs[:, 4].numpy(), theirs[:, 5].long().numpy())
    assert np.allclose(_in_order(ours), _in_order(wanted), atol=2e-2)


def _in_order(found: Found) -> np.ndarray:
    """Return the boxes with scores and classes (n, 6), in an order that does not depend on theirs."""
    order = np.lexsort((found.classes, found.scores))
    return np.asarray(np.c_[found.boxes, found.scores * 100, found.classes * 100][order])


def test_the_surest_come_first_and_no_more_than_are_wanted() -> None:
    all_of_them = find(_raw(0), CLASSES, SIZE_PX, Postprocess(score_threshold=0.1))
    few = find(_raw(0), CLASSES, SIZE_PX, Postprocess(score_threshold=0.1, max_boxes=5))
    assert (np.diff(all_of_them.scores) <= 0).all()
    assert np.array_equal(few.boxes, all_of_them.boxes[:5])
    assert len(find(_raw(0) - 50, CLASSES, SIZE_PX).boxes) == 0


def test_another_shape_is_no_detectors_output() -> None:
    for wrong in (_raw(0)[:, :-1], _raw(0)[:-1], _raw(0)[:4]):
        with pytest.raises(ValueError, match="is not the output of a detector for 3 classes at 64 px"):
            find(wrong, CLASSES, SIZE_PX)


@pytest.mark.parametrize("size", [(200, 50), (33, 64), (64, 64), (7, 300), (1000, 999)])
def test_a_box_finds_its_way_into_the_input_and_back(size: tuple[int, int]) -> None:
    seen = Input(SIZE_PX, resize=Resize.LETTERBOX)
    image = Image.new("RGB", size, (250, 10, 10))
    array, placement = seen.place(image)
    assert array.shape == (3, SIZE_PX, SIZE_PX)
    whole = np.array([[0, 0, *size]], dtype=np.float32)
    (corners,) = placement.placed(whole)
    red = np.argwhere(array[1] < 50)
    assert np.array_equal(corners, [red[:, 1].min(), red[:, 0].min(), red[:, 1].max() + 1, red[:, 0].max() + 1])
    assert np.allclose(placement.original(placement.placed(whole)), whole, atol=1e-3)
    assert np.array_equal(placement.original(np.array([[-9, -9, 99, 99]], dtype=np.float32)), whole)


def test_a_picture_is_looked_at_as_the_network_sees_it_without_what_pads_it() -> None:
    wide = Image.new("RGB", (200, 100), (250, 10, 10))
    for resize, size in ((Resize.LETTERBOX, (64, 32)), (Resize.STRETCH, (64, 64))):
        given = Input(64, resize=resize)
        shown = given.shown(*given.place(wide))
        assert shown.size == size and shown.getcolors() == [(size[0] * size[1], (250, 10, 10))]


def test_perfect_outputs_are_judged_perfect_and_shifted_ones_are_not(task: Detection) -> None:
    seen = task.input(SIZE_PX)
    judge, shifted = task.judge(seen), task.judge(seen)
    for classes, boxes in judge._objects:  # type: ignore[attr-defined]
        judge.add(_perfect(classes, boxes)[None])
        shifted.add(_perfect(classes, boxes + np.float32(4))[None])
    assert judge.accuracy() == pytest.approx(0.995, abs=1e-3)
    assert np.allclose(judge.scores(), 1.0)
    assert 0 < shifted.accuracy() < 0.8 and 0 < shifted.scores().mean() < 0.8
    all_of_them = np.ones(len(judge.scores()), dtype=bool)
    better, worse = judge.gains(shifted, all_of_them), shifted.gains(judge, all_of_them)
    assert better is not None and worse is not None
    assert (better > 0).all() and np.allclose(better, -worse)
    reference = judge.entries()["reference"]
    assert (
        sum(reference["class_counts"]) == sum(len(one.classes) for one in task.data.val) == sum(reference["confidence"])
    )
    assert sum(reference["brightness"]) == reference["sample_count"] == 6


def test_pictures_count_however_slowly_their_boxes_are_suppressed(
    task: Detection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils import nms

    hours = itertools.count(step=3600)
    monkeypatch.setattr(nms, "time", SimpleNamespace(time=lambda: next(hours)))
    judge = task.judge(task.input(SIZE_PX))
    judge.add(np.stack([_perfect(*objects) for objects in judge._objects]))  # type: ignore[attr-defined]
    assert judge.accuracy() == pytest.approx(0.995, abs=1e-3)


def test_what_a_detector_makes_of_pictures_is_counted_in_cells(task: Detection) -> None:
    judge = task.judge(task.input(SIZE_PX))
    for classes, boxes in judge._objects:  # type: ignore[attr-defined]
        judge.add(_perfect(classes, boxes)[None])
        # As many as the fitting of cells takes at least.
        judge.embedded(np.random.default_rng(len(boxes)).standard_normal((20, 16)).astype(np.float32))
    entries = judge.entries()
    assert len(entries["embedding"]["centres"][0]) == 16
    assert sum(entries["reference"]["embedding"]) == 60


def _perfect(classes: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the output of a detector that finds these boxes, each at the anchor nearest to its middle."""
    middles, widths = detections._anchors(SIZE_PX, detections.STRIDES)
    raw = np.full((4 + CLASSES, len(widths)), -20, dtype=np.float32)
    for number, box in zip(classes, boxes, strict=True):
        centre = (box[:2] + box[2:]) / 2
        taken = raw[4:].max(axis=0) > 0
        distance = np.where(taken, np.inf, np.abs(middles.T * widths[:, None] - centre).sum(axis=1))
        at = int(distance.argmin())
        raw[:2, at] = middles[:, at] - box[:2] / widths[at]
        raw[2:4, at] = box[2:] / widths[at] - middles[:, at]
        raw[4 + int(number), at] = 5
    return raw


def test_a_device_tells_the_boxes_that_the_project_asks_for_and_map_is_of_all(scenes: Path) -> None:
    few = opened(scenes, SIZE_PX, {"score_threshold": 0.5, "iou_threshold": 0.6, "max_boxes": 1})
    judge = few.judge(few.input(SIZE_PX))
    for classes, boxes in judge._objects:  # type: ignore[attr-defined]
        judge.add(_perfect(classes, boxes)[None])
    entries = judge.entries()
    assert entries["postprocess"] == {"score_threshold": 0.5, "iou_threshold": 0.6, "max_boxes": 1}
    assert entries["reference"]["sample_count"] == 6 == sum(entries["reference"]["class_counts"])
    assert judge.accuracy() == pytest.approx(0.995, abs=1e-3)


def test_classes_of_another_order_are_matched_by_name_and_unknown_ones_are_wrong(task: Detection) -> None:
    seen = task.input(SIZE_PX)
    turned, unknown = task.judge(seen, task.names[::-1]), task.judge(seen, ["cat", "dog", "cow"])
    for classes, boxes in task.judge(seen)._objects:  # type: ignore[attr-defined]
        perfect = _perfect(classes, boxes)
        turned.add(np.concatenate([perfect[:4], perfect[4:][::-1]])[None])
        unknown.add(perfect[None])
    assert turned.accuracy() == pytest.approx(0.995, abs=1e-3)
    assert unknown.accuracy() == 0.0 and unknown.scores().max() == 0.0


def test_accuracy_of_some_pictures_is_that_of_them_alone(task: Detection) -> None:
    judge = task.judge(task.input(SIZE_PX))
    for number, (classes, boxes) in enumerate(judge._objects):  # type: ignore[attr-defined]
        judge.add(_perfect(classes, boxes + np.float32(20 if number < 3 else 0))[None])
    bad = np.arange(6) < 3
    assert judge.accuracy_of(~bad) == pytest.approx(0.995, abs=1e-3)
    assert judge.accuracy_of(bad) < 0.3 < judge.accuracy() < 0.9


def test_validation_pictures_are_what_a_device_would_see(task: Detection) -> None:
    seen = task.input(SIZE_PX)
    (part,) = task.validation(seen)
    for picture, one in zip(part, task.data.val, strict=True):
        array, _ = seen.place(Image.open(one.path).convert("RGB"))
        assert np.array_equal(picture, array.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("family", ["yolov8", "yolo11", "yolo26"])
def test_what_is_handed_out_makes_what_the_network_decodes(family: str) -> None:
    torch.manual_seed(0)
    space = Yolo(SIZE_PX, family, 0.125)
    network = space.network(space.encoded({"p4.width": 0.5}), CLASSES)
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2.0)
    network.eval()
    pictures = torch.rand(2, 3, SIZE_PX, SIZE_PX)
    with torch.no_grad():
        expected = network(pictures)[0]
        raw = space.deployed(network)(pictures).numpy()
    for one, decoded in zip(raw, expected.numpy(), strict=True):
        boxes = detections.boxes_of(one[:-CLASSES], SIZE_PX)
        centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        assert np.allclose(np.c_[centres, sizes].T, decoded[:4], atol=1e-2)
        assert np.allclose(detections.sigmoid(one[-CLASSES:]), decoded[4:], atol=1e-4)


def test_mixed_batches_keep_boxes_with_their_pictures(task: Detection) -> None:
    mixed = Mixed([task, task], [1, 1])
    pictures, targets = next(mixed.batches(6, torch.Generator().manual_seed(0)))
    first, second = (task.part(pictures, targets, *bounds) for bounds in ((0, 3), (3, 6)))
    assert len(pictures) == 6 and torch.isfinite(pictures).all()
    for _, one in (first, second):
        assert len(one["cls"]) and one["batch_idx"].min() >= 0 and one["batch_idx"].max() < 3
    assert len(first[1]["cls"]) + len(second[1]["cls"]) == len(targets["cls"])


def test_the_newest_pictures_are_those_of_the_newest_version(scenes: Path) -> None:
    added = {f"{number:05}": 2 if number < 3 else 1 for number in range(8)}
    (scenes.parent / "added.json").write_text(str(added).replace("'", '"'))
    task = Detection(scenes, SIZE_PX)
    newest = task.newest()
    assert newest is not None and newest.count == 3 and task.count == 8
    assert {one.path.stem for one in newest.data.train} == {"00000", "00001", "00002"}
    learned = task.newest(1)
    assert learned is not None and learned.count == 3
    assert task.newest(2) is None, "all is learned"
    (scenes.parent / "added.json").unlink()
    assert Detection(scenes, SIZE_PX).newest() is None
