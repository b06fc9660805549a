"""What detectors are taught by: ultralytics' losses against labels, and the largest subnet's boxes and classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from milonga_hub.learning import ultralytics_offline  # noqa: F401  must come before ultralytics

# isort: split
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.metrics import bbox_iou
from ultralytics.utils.tal import dist2bbox, make_anchors

STRIDES = (8.0, 16.0, 32.0)
# Of heads with two branches (one box to many anchors, and one to one), ultralytics begins with this weight on the first
# (utils.loss.E2ELoss) and shifts it to the second, for use without suppression. Here the first is the one in use.
_MANY_SHARE = 0.8
# Classes more unlike in size than this are weighted.
_MOST_UNLIKE = 3.0


class Losses:
    """The losses of networks for a number of classes, whatever their family."""

    def __init__(self, classes: int, settings: Any, counts: Sequence[int]) -> None:
        """`counts` are training objects of each class, `settings` ultralytics' (gains box, cls and dfl)."""
        self._classes, self._settings, self._weights = classes, settings, class_weights(counts)
        self._criterion = lru_cache(self._built)

    def _built(self, bins: int, topk: int, topk_second: int | None, where: torch.device) -> v8DetectionLoss:
        head = SimpleNamespace(stride=torch.tensor(STRIDES, device=where), nc=self._classes, reg_max=bins)
        model = SimpleNamespace(
            args=self._settings,
            model=[head],
            class_weights=self._weights,
            parameters=lambda: iter([torch.empty(0, device=where)]),
        )
        return v8DetectionLoss(model, topk, topk_second)

    def labelled(self, outputs: Any, targets: dict[str, Tensor]) -> Tensor:
        """Return the loss of what a network in training mode made against its targets, divided by pictures."""
        if "one2many" in outputs:
            # The numbers of anchors are those of ultralytics' E2ELoss.
            many, one = self._branch(outputs["one2many"], targets), self._branch(outputs["one2one"], targets, 7, 1)
            return _MANY_SHARE * many + (1 - _MANY_SHARE) * one
        return self._branch(outputs, targets)

    def _branch(
        self, outputs: dict[str, Any], targets: dict[str, Tensor], topk: int = 10, topk_second: int | None = None
    ) -> Tensor:
        boxes, scores = outputs["boxes"].float(), outputs["scores"].float()
        criterion = self._criterion(boxes.shape[1] // 4, topk, topk_second, scores.device)
        given = {"boxes": boxes, "scores": scores, "feats": _grids(outputs["feats"])}
        found = criterion.get_assigned_targets_and_loss(given, targets)[1]
        return found.sum()

    def taught(self, outputs: Any, taught: Any) -> Tensor:
        """Return the loss against the largest subnet's outputs for the same pictures, weighted by its confidence.

        Its maps are brought to the size of the smaller picture's. Class probabilities are matched by cross-entropy and
        boxes by overlap where it is confident, as label losses weigh them by alignment: localisation distillation
        (Zheng et al. 2022, "Localization Distillation for Dense Object Detection", section 3) on boxes rather than
        on distributions, whose bins mean other lengths at another resolution.
        """
        student, teacher = (one.get("one2many", one) for one in (outputs, taught))
        own_boxes, own_scores = _maps(student)
        boxes, logits = _maps(teacher)
        scores = logits.sigmoid()
        sizes = [tuple(one.shape[2:]) for one in student["feats"]]
        if sizes != [tuple(one.shape[2:]) for one in teacher["feats"]]:
            boxes, scores = (
                _fitted(boxes, teacher["feats"], sizes, True),
                _fitted(scores, teacher["feats"], sizes, False),
            )
        weight = scores.amax(dim=1)
        total = scores.sum().clamp(min=1)
        classes = F.binary_cross_entropy_with_logits(own_scores, scores, reduction="sum") / total
        anchors, _ = make_anchors(_grids(student["feats"]), STRIDES, 0.5)
        own, other = (dist2bbox(one.permute(0, 2, 1), anchors, xywh=False).flatten(0, 1) for one in (own_boxes, boxes))
        overlap = bbox_iou(own, other, xywh=False, CIoU=True).view_as(weight)
        apart = ((1 - overlap) * weight).sum() / weight.sum().clamp(min=1)
        return self._settings.cls * classes + self._settings.box * apart


def _grids(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return maps of these sizes in float32, without data: places in bf16 are off beyond 128 cells."""
    return [one.new_zeros(1, dtype=torch.float32).expand(one.shape) for one in maps]


def _maps(outputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return distances (n, 4, anchors) in cells and the logits of classes (n, classes, anchors)."""
    boxes, scores = outputs["boxes"].float(), outputs["scores"].float()
    bins = boxes.shape[1] // 4
    if bins > 1:
        # The mean of each distribution (ultralytics.nn.modules.block.DFL).
        spread = boxes.view(len(boxes), 4, bins, -1).softmax(dim=2)
        boxes = (spread * torch.arange(bins, device=boxes.device).view(1, 1, -1, 1)).sum(dim=2)
    return boxes, scores


def _fitted(values: Tensor, maps: Sequence[Tensor], sizes: Sequence[tuple[int, ...]], distances: bool) -> Tensor:
    """Return values (n, channels, anchors) of these maps at other sizes; distances in cells shrink with them."""
    parts = []
    levels = values.split([one.shape[2] * one.shape[3] for one in maps], dim=2)
    for level, one, size in zip(levels, maps, sizes, strict=True):
        fitted = F.interpolate(level.unflatten(2, one.shape[2:]), size, mode="bilinear", align_corners=False)
        parts.append(fitted.flatten(2) * (size[0] / one.shape[2] if distances else 1.0))
    return torch.cat(parts, dim=2)


def class_weights(counts: Sequence[int]) -> Tensor | None:
    """Return weights (classes,) with a mean of 1, or None where classes are of like size.

    They are the inverse root of the number of objects; classes without any get the mean of the others, as ultralytics
    has it (models.yolo.detect.train, compute_class_weights).
    """
    found = torch.tensor(counts, dtype=torch.float32)
    present = found[found > 0]
    if len(present) == 0 or present.max() <= _MOST_UNLIKE * present.min():
        return None
    weights = found.clamp(min=1.0) ** -0.5
    weights = torch.where(found > 0, weights, weights[found > 0].mean())
    return weights / weights.mean()
