"""A detector is built from pictures alone: the boxes that it finds itself are what its build is held against."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from milonga import detections
from milonga.inputs import Input, Resize
from milonga_agent.served import Served
from milonga_compiler.__main__ import main
from milonga_compiler.boxes import Agreement, Boxes, Detected, alike, anchor_count, find
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.errors import PicturesUnusable
from milonga_compiler.pictures import Scaling, load_pictures
from PIL import Image

from tests.agent.test_boxes import NAMES, SIZE_PX, _maps, _write_network


def _outputs(seed: int, bins: int) -> np.ndarray:
    """Return what a detector could make of a picture, with many boxes that overlap."""
    random = np.random.default_rng(seed)
    maps = np.abs(random.normal(2, 1, (4 * bins + len(NAMES), anchor_count(SIZE_PX)))).astype(np.float32)
    maps[4 * bins :] = random.normal(-2, 2, (len(NAMES), anchor_count(SIZE_PX)))
    return maps


@pytest.mark.parametrize("bins", [1, 16])
def test_boxes_are_those_that_devices_find(bins: int) -> None:
    for seed in range(10):
        output = _outputs(seed, bins)
        ours, theirs = find(output, len(NAMES), SIZE_PX), detections.find(output, len(NAMES), SIZE_PX)
        assert len(theirs.classes) > 5
        np.testing.assert_allclose(ours.corners, theirs.boxes, atol=1e-4)
        assert np.array_equal(ours.classes, theirs.classes)


def test_boxes_without_an_area_are_none_so_that_a_network_agrees_with_itself() -> None:
    maps = np.full((1, 4 + len(NAMES), anchor_count(SIZE_PX)), -8.0, dtype=np.float32)
    # A box, one that is inside out, and one that is flat.
    for anchor, sides in ((3, (1, 1, 2, 2)), (9, (-2, 1, -2, 1)), (20, (1, 0, 1, 0))):
        maps[0, :4, anchor], maps[0, 4, anchor] = sides, 3.0
    assert len(find(maps[0], len(NAMES), SIZE_PX).classes) == 1
    assert len(detections.find(maps[0], len(NAMES), SIZE_PX).classes) == 1
    judge = Detected(np.zeros((1, 3, SIZE_PX, SIZE_PX), dtype=np.float32), maps, len(NAMES)).judge()
    judge.add(maps)
    assert judge.accuracy() == 1.0


@pytest.mark.parametrize("size", [(90, 37), (20, 64), (64, 64)])
def test_pictures_are_letterboxed_as_devices_do(size: tuple[int, int], tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    ours = load_pictures(tmp_path, Scaling(SIZE_PX, [0.0] * 3, [1.0] * 3, letterbox=True)).inputs
    seen = Input(SIZE_PX, resize=Resize.LETTERBOX)
    theirs = seen.normalise(seen.place(Image.fromarray(picture))[0][None])
    assert np.array_equal(ours, theirs)


def test_a_build_that_misses_a_box_agrees_less() -> None:
    whole = _maps()
    blind = whole.copy()
    blind[0, 4:, 3 * (SIZE_PX // 8) + 2] = -8.0  # The bolt's anchor.
    evidence = Detected(np.zeros((1, 3, SIZE_PX, SIZE_PX), dtype=np.float32), whole, len(NAMES))
    judge = evidence.judge()
    assert isinstance(judge, Agreement)
    judge.add(blind)
    # One box of the two, and none too many: 2 * 1 of 1 + 2 sure ones.
    assert judge.accuracy() == pytest.approx(2 / 3)


def test_each_box_stands_for_one_and_the_sure_ones_for_each_other_first() -> None:
    def boxes(*scores: float) -> Boxes:
        corners = np.array([[0, 0, 10, 10 - number] for number in range(len(scores))], dtype=np.float32)
        return Boxes(corners, np.zeros(len(scores), dtype=np.int64), np.array(scores, dtype=np.float32))

    # A double is one too many; one that is only seen is not counted, and stands for a sure one where no sure one does.
    assert alike(boxes(0.9), boxes(0.9, 0.8), 0.5) == (3, 2)
    assert alike(boxes(0.9), boxes(0.2, 0.8), 0.5) == (2, 2)
    assert alike(boxes(0.9), boxes(0.2), 0.5) == (1, 1)
    assert alike(boxes(0.4), boxes(0.2), 0.5) == (0, 0) == alike(boxes(), boxes(), 0.5)
    other = Boxes(boxes(0.9).corners, np.ones(1, dtype=np.int64), boxes(0.9).scores)
    assert alike(boxes(0.9), other, 0.5) == (2, 0)


def test_pictures_in_which_a_detector_finds_nothing_prove_nothing() -> None:
    with pytest.raises(PicturesUnusable, match="finds nothing in any"):
        Detected(np.zeros((1, 3, SIZE_PX, SIZE_PX), dtype=np.float32), np.full_like(_maps(), -8.0), len(NAMES))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    _write_network(tmp_path / "detector.onnx", _maps())
    return tmp_path / "detector.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for index in range(4):
        Image.new("RGB", (80, 40 + index), (index * 9, 20, 30)).save(tmp_path / "pictures" / f"{index}.png")
    return tmp_path / "pictures"


def test_a_detector_is_built_and_its_bundle_answers_with_boxes(
    network: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(network), "--calibration", str(folder), "--output", str(tmp_path / "out"), "--classes", "bolt,nut"]
    assert main([*given, "--target", "onnxruntime/fp32", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["state"] == "VERIFIED" and "running it on 2 pictures" in said.err
    manifest = verify_bundle(tmp_path / "out").manifest
    assert (manifest["task"], manifest["classes"]) == ("detection", NAMES)
    assert manifest["input"]["resize"] == "letterbox" and manifest["output"]["strides"] == [8, 16, 32]
    answer = Served(tmp_path / "out", 1).of_pictures([(folder / "0.png").read_bytes()])
    assert answer.values["class"] == ["nut", "bolt"]
    like = ["--like", str(tmp_path / "out"), "--output", str(tmp_path / "half"), "--target", "onnxruntime/fp16"]
    assert main([*given[:3], *like]) == 0, capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--classes bolt,nut"),
        (["--classes", "bolt,nut,washer"], "not that of a detector of 3 classes"),
    ],
)
def test_a_detector_whose_classes_are_not_known_is_not_guessed_at(
    arguments: list[str], said: str, network: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(network), "--calibration", str(folder), "--output", str(tmp_path / "out")]
    assert main([*given, "--target", "onnxruntime/fp32", *arguments]) == 2
    assert said in capsys.readouterr().err
