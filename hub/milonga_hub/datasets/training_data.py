"""Write what jobs train on: pictures as arrays to classify, a folder in YOLO's layout to detect. Whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from milonga import pictures, preprocessing
from PIL import Image

from milonga_hub.blobs import Blobs
from milonga_hub.datasets.rules import TRAIN, VALIDATION, Sample
from milonga_hub.errors import FailedPrecondition, OutOfRoom

_SPLITS = ((TRAIN, "train"), (VALIDATION, "val"))


def write_arrays(
    blobs: Blobs,
    samples: Sequence[Sample],
    classes: Sequence[str],
    resolution_px: int,
    path: Path,
    steps: Sequence[str] = (),
) -> None:
    """Write an npz file: classes, x_train uint8 (n, 3, r, r), y_train, added_train, digests_train, and so for val; and steps, where there
    are any.

    Raises FailedPrecondition naming a step that fails.
    """
    arrays: dict[str, np.ndarray] = {"classes": np.array(classes)}
    if steps:
        arrays["steps"] = np.array(steps)
    for split, name in _SPLITS:
        chosen = [sample for sample in samples if sample.split == split]
        arrays.update(_arrays(blobs, chosen, classes, resolution_px, name, steps))
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _disk(path),
        tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", suffix=".npz", delete=False) as file,
    ):
        try:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(path)


def _arrays(
    blobs: Blobs,
    samples: Sequence[Sample],
    classes: Sequence[str],
    resolution_px: int,
    name: str,
    steps: Sequence[str],
) -> dict[str, np.ndarray]:
    index = {label: number for number, label in enumerate(classes)}
    images = np.zeros((len(samples), 3, resolution_px, resolution_px), dtype=np.uint8)
    for row, sample in enumerate(samples):
        image = pictures.decode(blobs.read(sample.digest))
        try:
            images[row] = pictures.to_array(preprocessing.prepared(image, steps), resolution_px)
        except ValueError as error:
            raise FailedPrecondition(f"{sample.digest}: {error}") from error
    return {
        f"x_{name}": images,
        f"y_{name}": np.array([index[sample.label] for sample in samples], dtype=np.int64),
        f"added_{name}": np.array([sample.added_in for sample in samples], dtype=np.int32),
        f"digests_{name}": np.array([_stem(sample) for sample in samples], dtype=np.str_),
    }


def write_yolo(blobs: Blobs, samples: Sequence[Sample], classes: Sequence[str], path: Path) -> None:
    """Write a data.yaml with images/ and labels/ beside it, and added.json: the version that brought each picture.

    Pictures are named by their digests and are the blobs themselves where the file system can give a second name.
    """
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    with _disk(path), tempfile.TemporaryDirectory(dir=path.parent.parent, prefix=".part-") as scratch:
        folder = Path(scratch) / "data"
        index = {label: number for number, label in enumerate(classes)}
        for split, name in _SPLITS:
            for kind in ("images", "labels"):
                (folder / kind / name).mkdir(parents=True)
            for sample in samples:
                if sample.split == split:
                    _write_picture(blobs, sample, index, folder, name)
        described = {"train": "images/train", "val": "images/val", "names": list(classes)}
        (folder / "data.yaml").write_text(yaml.safe_dump(described, allow_unicode=True), encoding="utf-8")
        added = {_stem(sample): sample.added_in for sample in samples}
        (folder / "added.json").write_text(json.dumps(added), encoding="utf-8")
        folder.replace(path.parent)


def _write_picture(blobs: Blobs, sample: Sample, index: Mapping[str, int], folder: Path, split: str) -> None:
    stem = _stem(sample)
    taken = folder / stem
    blobs.copy_to(sample.digest, taken)
    with Image.open(taken) as image:
        ending = (image.format or "png").lower()
    taken.rename(folder / "images" / split / f"{stem}.{ending if ending in _ENDINGS else 'png'}")
    rows = (f"{index[box.label]} {box.x} {box.y} {box.width} {box.height}\n" for box in sample.boxes)
    (folder / "labels" / split / f"{stem}.txt").write_text("".join(rows), encoding="ascii")


_ENDINGS = ("bmp", "jpeg", "png", "tiff", "webp")


def _stem(sample: Sample) -> str:
    return sample.digest.removeprefix("sha256:")


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Say what to do where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutOfRoom(f"the hub's disk is full; free space under {path.parent}") from error
        raise
