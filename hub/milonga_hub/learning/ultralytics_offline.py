"""The one place that imports ultralytics: offline, quiet, and with non-maximum suppression even where torchvision lacks it.

Other modules take what they need from here after this module was imported; it must come before any `import ultralytics`.
"""

from __future__ import annotations

import importlib
import os
import sys

import torch
from milonga import detections
from torch import Tensor

# No update checks, no downloads of weights or fonts, no `pip install` behind the user's back, no summaries printed.
for _name, _value in (("YOLO_OFFLINE", "true"), ("YOLO_AUTOINSTALL", "false"), ("YOLO_VERBOSE", "false")):
    os.environ.setdefault(_name, _value)


class UltralyticsMissing(ImportError):
    """Detection needs ultralytics and torchvision, which are an extra."""


def suppressed(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices of the boxes that no better kept box overlaps by more than the threshold, best first.

    `boxes` (n, 4) are corners x1, y1, x2, y2; `scores` (n,). Equal to `torchvision.ops.nms`: greedy suppression.
    """
    order = torch.argsort(scores, descending=True)
    kept = detections.suppress(boxes[order].detach().float().cpu().numpy(), iou_threshold)
    return order[torch.from_numpy(kept).to(order.device)]


def _import_torchvision() -> None:
    """Import torchvision; where its compiled operators cannot load, define those that its import asks for first.

    A torchvision built for another torch (the registry's, beside a CPU-only torch) fails to import for want of them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARY.impl("nms", suppressed, "CompositeExplicitAutograd")
        importlib.import_module("torchvision")
        # It asks this before each operator; those still missing fail by their names.
        extension = importlib.import_module("torchvision.extension")
        extension._has_ops = lambda: True  # type: ignore[attr-defined]


# Its operators live as long as it does.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")

try:
    _import_torchvision()
    importlib.import_module("ultralytics")
except ImportError as error:
    raise UltralyticsMissing(f"detection needs ultralytics: pip install 'milonga-hub[yolo]' ({error})") from error
