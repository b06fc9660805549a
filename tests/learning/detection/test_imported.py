"""Detectors that ultralytics exported answer on devices as ultralytics' own prediction does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("ultralytics", reason="detection needs: pip install 'milonga-hub[yolo]'")
pytest.importorskip("skimage", reason="the pictures are scikit-image's")

from milonga.detections import Found, Postprocess, find
from milonga.inputs import Input, Resize
from milonga_compiler.backends import in_process
from milonga_compiler.importing import Adopted, adopt
from milonga_hub.learning import ultralytics_offline  # noqa: F401  must come before ultralytics
from numpy.typing import NDArray
from PIL import Image
from skimage import data

# isort: split
from ultralytics import YOLO

SIZE_PX, CLASSES = 64, 5
# Of ultralytics' smallest networks an eighth: what is tried are heads, and exports.
_WIDTHS = {"n": [0.33, 0.0625, 64]}


def _model(family: str, folder: Path) -> YOLO:
    """Return a network with random weights whose answers differ from anchor to anchor, as a trained one's do."""
    from ultralytics.nn.tasks import yaml_model_load

    torch.manual_seed(3)
    names = {number: f"thing {number}" for number in range(CLASSES)}
    described = {**yaml_model_load(f"{family}n.yaml"), "scales": _WIDTHS, "nc": CLASSES}
    written = folder / f"{family}n.yaml"
    written.write_text(yaml.safe_dump({key: described[key] for key in described if key != "yaml_file"}))
    model = YOLO(str(written), task="detect")
    model.model.names = names
    for name in ("cv3", "one2one_cv3"):
        for branch in getattr(model.model.model[-1], name, None) or []:
            torch.nn.init.normal_(branch[-1].weight, 0, 1.5)
            torch.nn.init.constant_(branch[-1].bias, -3)
    for module in model.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.model.train()(torch.from_numpy(np.stack(_pictures()).transpose(0, 3, 1, 2) / 255).float())
    model.model.eval()
    return model


def _pictures() -> list[NDArray[np.uint8]]:
    """Return photographs at the network's own size: how they are scaled is not what is tried here."""
    some = (data.astronaut(), data.chelsea(), data.coffee())
    return [np.asarray(Image.fromarray(one).resize((SIZE_PX, SIZE_PX))) for one in some]


def _answers(own: Path, about: Adopted) -> list[Found]:
    seen = Input(about.size_px, about.mean, about.std, Resize(about.resize))
    post = Postprocess(iou_threshold=1.0 if about.end_to_end else 0.7)
    inputs = seen.normalise(np.stack([seen.place(Image.fromarray(one))[0] for one in _pictures()]))
    maps = in_process("onnxruntime").run(own, inputs, 1)
    return [find(one, len(about.classes), about.size_px, post) for one in maps]


@pytest.mark.parametrize(("family", "options"), [("yolo11", {}), ("yolo26", {"nms": False})])
def test_an_export_answers_as_ultralytics_does(
    family: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sent = _model(family, tmp_path).export(format="onnx", imgsz=SIZE_PX, simplify=False, **options)
    about = adopt(Path(sent), tmp_path / "own.onnx")
    assert (about.task, about.end_to_end) == ("detection", bool(options))
    assert about.classes == tuple(f"thing {number}" for number in range(CLASSES))
    theirs = YOLO(sent, task="detect")
    for picture, ours in zip(_pictures(), _answers(tmp_path / "own.onnx", about), strict=True):
        (wanted,) = theirs.predict(picture[..., ::-1], imgsz=SIZE_PX, conf=0.25, iou=0.7, device="cpu")
        theirs_rows = wanted.boxes.data.numpy()
        rows = np.c_[ours.boxes.clip(0, SIZE_PX), ours.scores, ours.classes]
        assert len(rows) > 3
        near = np.abs(rows[:, None] - theirs_rows[None]).max(axis=2) < 2e-2
        assert near.any(axis=1).all()
        # An end to end head may tell one anchor twice, as two classes; devices tell its surest.
        for row in theirs_rows[~near.any(axis=0)]:
            same_box = np.abs(rows[:, :4] - row[:4]).max(axis=1) < 2e-2
            assert about.end_to_end and rows[same_box, 4].max() > row[4]
