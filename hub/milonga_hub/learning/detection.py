"""Learning to detect objects, with ultralytics' own augmentation, losses and metrics."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from milonga import pictures
from milonga.detections import Postprocess
from milonga.inputs import Input, Resize, fitted_size, scaled
from milonga_compiler.backends.base import Floats
from numpy.typing import NDArray
from torch import Tensor

from milonga_hub.learning import detection_loss, ultralytics_offline  # noqa: F401  must come before ultralytics
from milonga_hub.learning.data import is_new
from milonga_hub.learning.detection_data import Detections, Picture, read
from milonga_hub.learning.detection_judge import DetectionJudge
from milonga_hub.learning.held_back import held_back
from milonga_hub.learning.task import Optimiser, PictureJudge, Task, parts, together

# isort: split
from ultralytics.cfg import get_cfg
from ultralytics.data.dataset import YOLODataset

_CALIBRATION_COUNT = 256
_CALIBRATION_BATCH = 32
# ultralytics takes every picture from a mosaic of four and stops so for the last epochs; half throughout needs no clock.
_MOSAIC_SHARE = 0.5


class Detection(Task):
    """A checked data set in YOLO's format; targets are ultralytics': "batch_idx" (boxes,), "cls" (boxes, 1), "bboxes".

    Boxes (boxes, 4) are centre, width and height as shares of the picture, so that they hold at every resolution.
    """

    # SGD with the settings that suit classification left yolo26n at two thirds of this one's mAP after equal steps.
    optimiser = Optimiser("adamw", 0.008, shared=2.0)
    # A teacher that finds nothing yet teaches that there is nothing.
    largest_alone_share = 1 / 3
    measure = DetectionJudge.measure

    def __init__(
        self,
        data: str | Path | Detections,
        resolution_px: int,
        augmentation: Mapping[str, float] | None = None,
        post: Postprocess = Postprocess(),
    ) -> None:
        """`data` is a data.yaml, or what was read of one; `augmentation` overrides ultralytics' settings (mosaic, fliplr, hsv_h, scale, ...);
        `post` says which boxes devices tell, which mAP does not depend on.

        Raises FlawedData for a data set with flaws.
        """
        self.data = data if isinstance(data, Detections) else read(data)
        self.resolution_px, self._augmentation, self._post = resolution_px, augmentation, post
        self.names = self.data.names
        self.classes, self.count = len(self.names), len(self.data.train)
        self._settings = get_cfg(overrides={"task": "detect", "mosaic": _MOSAIC_SHARE, **(augmentation or {})})
        self._references: dict[int, Mapping[str, list[int]]] = {}
        self._losses = detection_loss.Losses(self.classes, self._settings, self.data.counts)

    @cached_property
    def _train(self) -> _Pictures:
        return _Pictures(self.data.train, self.names, self.resolution_px, self._settings)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield an epoch of augmented pictures (n, 3, H, W) from 0 to 1, RGB, with their targets."""
        self._train.forget()
        for chosen in torch.randperm(self.count, generator=generator).split(size):
            seed = int(torch.randint(2**31, (1,), generator=generator))
            # Batch statistics of one picture say nothing.
            if len(chosen) > 1:
                with _seeded(seed):
                    batch = YOLODataset.collate_fn([self._train[int(index)] for index in chosen])
                yield batch["img"].float() / 255, {key: batch[key] for key in ("batch_idx", "cls", "bboxes")}

    def part(
        self, pictures: Tensor, targets: dict[str, Tensor], start: int, stop: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        owner = targets["batch_idx"]
        kept = (owner >= start) & (owner < stop)
        cut = {key: value[kept] for key, value in targets.items()}
        return pictures[start:stop], {**cut, "batch_idx": cut["batch_idx"] - start}

    def loss(self, outputs: Any, targets: dict[str, Tensor]) -> Tensor:
        """Return ultralytics' loss of boxes, classes and distributions, divided by the number of pictures."""
        return self._losses.labelled(outputs, targets)

    def distilled(self, outputs: Any, taught: Any, targets: dict[str, Tensor]) -> Tensor:
        """Return the mean of the loss against labels and that against the largest subnet's boxes and classes."""
        return (self._losses.labelled(outputs, targets) + self._losses.taught(outputs, taught)) / 2

    @cached_property
    def calibration(self) -> Sequence[Tensor]:
        """Training pictures as they are served: fitted into the square, not augmented."""
        with _seeded(0):
            chosen = tuple(random.sample(self.data.train, min(_CALIBRATION_COUNT, self.count)))
            seen = self.input(self.resolution_px)
        stacked = torch.from_numpy(np.concatenate(list(_inputs(chosen, seen))))
        return list(stacked.chunk(max(1, round(len(chosen) / _CALIBRATION_BATCH))))

    def input(self, resolution_px: int) -> Input:
        return Input(resolution_px, resize=Resize.LETTERBOX)

    @property
    def added(self) -> NDArray[np.int64]:
        return np.array([one.added_in for one in self.data.val], dtype=np.int64)

    @cached_property
    def held_back(self) -> NDArray[np.bool_]:
        return held_back([one.digest for one in self.data.val], self.classes)

    @property
    def shown(self) -> NDArray[np.bool_]:
        return np.array([np.isin(np.arange(self.classes), one.classes) for one in self.data.val], dtype=bool)

    def validation(self, seen: Input) -> Iterator[Floats]:
        return _inputs(self.data.val, seen)

    def calibrating(self, seen: Input, count: int, seed: int) -> Floats:
        chosen = np.random.default_rng(seed).permutation(self.count)[:count]
        return together(_inputs([self.data.train[index] for index in np.sort(chosen)], seen), seen.size_px)

    def judge(self, seen: Input, names: Sequence[str] | None = None) -> PictureJudge:
        objects = [(one.classes, _corners(one, self._sizes[index], seen)) for index, one in enumerate(self.data.val)]
        known = self.names if names is None else names
        return DetectionJudge(
            objects, seen, known, self.names, lambda: self._reference(seen), self.held_back, self._post
        )

    @cached_property
    def _sizes(self) -> list[tuple[int, int]]:
        return [pictures.decode(one.path.read_bytes()).size for one in self.data.val]

    def _reference(self, seen: Input) -> Mapping[str, list[int]]:
        """Return what the validation pictures look like as the network sees them; all of them must be read for it."""
        if seen.size_px not in self._references:
            placed = (seen.place(pictures.decode(one.path.read_bytes())) for one in self.data.val)
            self._references[seen.size_px] = pictures.reference(seen.shown(*one) for one in placed)
        return self._references[seen.size_px]

    def newest(self, learned: int = 0) -> Detection | None:
        new = is_new(np.array([one.added_in for one in self.data.train]), learned)
        chosen = tuple(one for one, wanted in zip(self.data.train, new, strict=True) if wanted)
        if len(chosen) in (0, 1, len(self.data.train)):
            return None
        return Detection(replace(self.data, train=chosen), self.resolution_px, self._augmentation, self._post)

    def joined(self, batches: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return several batches as one: boxes belong to pictures by their numbers, which go on."""
        starts = np.cumsum([0, *(len(some) for some, _ in batches)])
        targets = [
            {**one, "batch_idx": one["batch_idx"] + int(start)}
            for (_, one), start in zip(batches, starts[:-1], strict=True)
        ]
        together = {key: torch.cat([one[key] for one in targets]) for key in targets[0]}
        return torch.cat([some for some, _ in batches]), together


def _inputs(some: Sequence[Picture], seen: Input) -> Iterator[Floats]:
    for start, stop in parts(len(some), seen.size_px):
        images = [pictures.decode(one.path.read_bytes()) for one in some[start:stop]]
        yield seen.normalise(np.stack([seen.place(image)[0] for image in images]))


def _corners(picture: Picture, size: tuple[int, int], seen: Input) -> NDArray[np.float32]:
    """Return the boxes (n, 4) of a picture of this width and height as corners in a network's input."""
    half = picture.boxes[:, 2:] / 2
    corners = np.concatenate([picture.boxes[:, :2] - half, picture.boxes[:, :2] + half], axis=1)
    scaled = corners * np.array(size * 2, dtype=np.float32)
    return seen.placement(*size).placed(scaled)


class _Pictures(YOLODataset):
    """ultralytics' data set over pictures that are checked already, in place of its own search of folders and caches."""

    def __init__(self, some: Sequence[Picture], names: Sequence[str], resolution_px: int, settings: Any) -> None:
        self._pictures = some
        # Deterministic all the same: pictures are taken one after the other.
        settings = copy(settings)
        settings.deterministic = False
        with _seeded(0):
            super().__init__(
                img_path="",
                imgsz=resolution_px,
                cache="ram",
                augment=True,
                hyp=settings,
                data={"names": dict(enumerate(names)), "channels": 3},
                task="detect",
            )

    def get_img_files(self, img_path: Any) -> list[str]:
        return [str(picture.path) for picture in self._pictures]

    def get_labels(self) -> list[dict[str, Any]]:
        return [
            {
                "im_file": str(picture.path),
                "cls": picture.classes.reshape(-1, 1).copy(),
                "bboxes": picture.boxes.copy(),
                "segments": [],
                "keypoints": None,
                "normalized": True,
                "bbox_format": "xywh",
            }
            for picture in self._pictures
        ]

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[int, int]]:
        """Return a picture as devices scale it, its longer side brought to the size, and its height and width before
        and after; in the order of colours that ultralytics takes.
        """
        if self.ims[i] is None:
            image = pictures.decode(self._pictures[i].path.read_bytes())
            fitted = scaled(image, fitted_size(*image.size, self.imgsz))
            self._remember(i, np.ascontiguousarray(fitted[..., ::-1]), (image.height, image.width))
        kept: Any = self.ims[i]
        return kept, self.im_hw0[i], self.im_hw[i]

    def _remember(self, i: int, picture: Any, before: tuple[int, int]) -> None:
        """Keep a picture as BaseDataset.load_image does: mosaics draw from what is kept."""
        self.ims[i], self.im_hw0[i], self.im_hw[i] = picture, before, picture.shape[:2]
        if self.cache != "ram":
            self.buffer.append(i)
            if 1 < len(self.buffer) >= self.max_buffer_length:
                oldest = self.buffer.pop(0)
                if oldest != i:
                    self.ims[oldest] = None

    def cache_images(self) -> None:
        """Read all pictures, at the size that they are used in; ultralytics' own prints a bar and starts threads."""
        for index in range(self.ni):
            self.load_image(index)

    def forget(self) -> None:
        """Empty the store that mosaics draw from where memory does not hold all pictures, so that epochs are repeatable."""
        if self.cache != "ram":
            self.buffer.clear()
            self.ims = [None] * self.ni


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what ultralytics draws from, and put it back afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
