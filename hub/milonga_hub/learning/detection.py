"""Learning to detect objects, with ultralytics' own augmentation, losses and metrics."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from milonga_hub.learning import detection_loss, ultralytics_offline  # noqa: F401  must come before ultralytics
from milonga_hub.learning.detection_data import Picture, read
from milonga_hub.learning.task import Optimiser, Task

# isort: split
from ultralytics.cfg import get_cfg
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionValidator

_EVALUATION_BATCH = 8
_CALIBRATION_COUNT = 256
_CALIBRATION_BATCH = 32
# ultralytics takes every picture from a mosaic of four and stops so for the last epochs; half throughout needs no clock.
_MOSAIC_SHARE = 0.5


class Detection(Task):
    """A checked data set in YOLO's format; targets are ultralytics': "batch_idx" (boxes,), "cls" (boxes, 1), "bboxes".

    Boxes (boxes, 4) are centre, width and height as shares of the picture, so that they hold at every resolution.
    """

    # SGD with the settings that suit classification left yolo26n at two thirds of this one's mAP after equal steps.
    optimiser = Optimiser("adamw", 0.008)

    def __init__(
        self, data_yaml: str | Path, resolution_px: int, augmentation: Mapping[str, float] | None = None
    ) -> None:
        """`augmentation` overrides ultralytics' settings (mosaic, fliplr, hsv_h, scale, ...).

        Raises FlawedData for a data set with flaws.
        """
        self.data = read(data_yaml)
        self.resolution_px = resolution_px
        self.names = self.data.names
        self.classes, self.count = len(self.names), len(self.data.train)
        self._settings = get_cfg(overrides={"task": "detect", "mosaic": _MOSAIC_SHARE, **(augmentation or {})})
        self._losses = detection_loss.Losses(self.classes, self._settings, self.data.counts)
        self._validation: dict[int, _Pictures] = {}

    @cached_property
    def _train(self) -> _Pictures:
        return _Pictures(self.data.train, self.names, self.resolution_px, self._settings, augment=True)

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
            pictures = _Pictures(chosen, self.names, self.resolution_px, self._settings, augment=False)
        parts = max(1, round(len(chosen) / _CALIBRATION_BATCH))
        stacked = torch.stack([pictures[index]["img"] for index in range(len(chosen))]).float() / 255
        return list(stacked.chunk(parts))

    @torch.no_grad()
    def evaluate(self, network: nn.Module, resolution_px: int) -> float:
        """Return mAP50-95 as ultralytics' validator has it, pictures fitted into squares of this resolution."""
        if resolution_px not in self._validation:
            self._validation[resolution_px] = _Pictures(
                self.data.val, self.names, resolution_px, self._settings, augment=False
            )
        pictures = self._validation[resolution_px]
        network.eval()
        with tempfile.TemporaryDirectory() as folder:
            judge = _judge(network, pictures, Path(folder))
            for start in range(0, len(pictures), _EVALUATION_BATCH):
                stop = min(start + _EVALUATION_BATCH, len(pictures))
                batch = judge.preprocess(YOLODataset.collate_fn([pictures[index] for index in range(start, stop)]))
                judge.update_metrics(judge.postprocess(network(batch["img"])), batch)
            return float(judge.get_stats()["metrics/mAP50-95(B)"])


def _judge(network: nn.Module, pictures: _Pictures, folder: Path) -> DetectionValidator:
    """Return ultralytics' validator, ready to be fed: its own loop would write files and fuse the network's layers."""
    settings = {"task": "detect", "mode": "val", "imgsz": pictures.imgsz, "plots": False, "verbose": False}
    judge = DetectionValidator(save_dir=folder, args=settings)
    judge.device = next(network.parameters()).device
    judge.data, judge.dataloader = {}, SimpleNamespace(dataset=pictures)
    names = dict(enumerate(pictures.data["names"].values()))
    judge.init_metrics(SimpleNamespace(names=names, end2end=False))
    return judge


class _Pictures(YOLODataset):
    """ultralytics' data set over pictures that are checked already, in place of its own search of folders and caches."""

    def __init__(
        self, pictures: Sequence[Picture], names: Sequence[str], resolution_px: int, settings: Any, augment: bool
    ) -> None:
        self._pictures = pictures
        # Deterministic all the same: pictures are taken one after the other.
        settings = copy(settings)
        settings.deterministic = False
        with _seeded(0):
            super().__init__(
                img_path="",
                imgsz=resolution_px,
                cache="ram",
                augment=augment,
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

    def cache_images(self) -> None:
        """Read all pictures, at the size that they are used in; ultralytics' own prints a bar and starts threads."""
        for index in range(self.ni):
            self.ims[index], self.im_hw0[index], self.im_hw[index] = self.load_image(index)

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
