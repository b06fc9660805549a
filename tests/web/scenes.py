"""A hub whose only project finds objects, with pictures that a device sent to be labelled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from milonga_hub.blobs import digest_of
from milonga_hub.devices.models import Inventory
from milonga_hub.devices.service import Enrolment
from milonga_hub.labelling.models import SampleBox, SampleReason, SampleView
from milonga_hub.projects.models import ProjectSpec, SamplingSpec, TrainingSpec
from milonga_hub.tasks import Task
from PIL import Image, ImageDraw

from tests.certificates import Key
from tests.web.filled import Services

CLASSES = ("ball", "crate")
PROJECT = "scenes"
_WIDTH, _HEIGHT = 320, 240


def scene(seed: int) -> tuple[bytes, list[SampleBox]]:
    """Return a picture of two crates and a ball, and where they are."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (_WIDTH, _HEIGHT), tuple(int(part) for part in random.integers(60, 200, 3)))
    pen, boxes = ImageDraw.Draw(image), []
    for label in ("crate", "ball", "crate"):
        left, top = (int(at) for at in random.integers(10, 150, 2))
        width, height = (int(side) for side in random.integers(30, 80, 2))
        corners = (left, top, left + width, top + height)
        if label == "ball":
            pen.ellipse(corners, fill=(200, 40, 40))
        else:
            pen.rectangle(corners, fill=(40, 40, 200))
        middle = ((left + width / 2) / _WIDTH, (top + height / 2) / _HEIGHT)
        boxes.append(
            SampleBox(label=label, x=middle[0], y=middle[1], width=width / _WIDTH, height=height / _HEIGHT, score=0.4)
        )
    packed = io.BytesIO()
    image.save(packed, "JPEG")
    return packed.getvalue(), boxes


def scenes(folder: Path) -> Services:
    """Return services with a data set of scenes, a project for it, and four scenes that wait."""
    hub = Services(folder)
    hub.datasets.import_archive(PROJECT, _archive(folder / "scenes.zip"), append=False, strict=True)
    training = TrainingSpec(space="yolo", resolution_px=64)
    sampling = SamplingSpec(enabled=True)
    hub.projects.apply(PROJECT, ProjectSpec(task=Task.DETECTION, dataset=PROJECT, training=training, samples=sampling))
    _, token = hub.devices.create_join_token({})
    hub.devices.enrol(Enrolment(token, "pi", Inventory(machine_id="pi"), "0.1.0", False, {}, Key().request()))
    hub.devices.assign("pi", "sha256:" + "1" * 64, [], "models/scenes/versions/1", PROJECT, "onnxruntime/fp32")
    for seed in range(100, 104):
        data, boxes = scene(seed)
        told = SampleView(
            name="",
            project=PROJECT,
            digest=digest_of(data),
            device="pi",
            reason=SampleReason.LEAST_CONFIDENT,
            confidence=0.4,
            predicted_boxes=boxes,
            size_bytes=len(data),
        )
        hub.samples.receive(hub.devices.get("pi"), told, data)
    return hub


def _archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.yaml", f"names: [{', '.join(CLASSES)}]\n")
        for seed in range(10):
            data, boxes = scene(seed)
            rows = (f"{CLASSES.index(box.label)} {box.x} {box.y} {box.width} {box.height}\n" for box in boxes)
            archive.writestr(f"images/{seed}.jpg", data)
            archive.writestr(f"labels/{seed}.txt", "".join(rows))
    return path
