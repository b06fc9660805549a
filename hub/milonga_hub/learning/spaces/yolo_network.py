"""Build ordinary ultralytics networks from descriptions, mark them for weight sharing, and write ordinary checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milonga_hub.learning import ultralytics_offline  # noqa: F401  must come before ultralytics
from milonga_hub.learning.sharing import Channels
from milonga_hub.learning.spaces import yolo_parts as parts

# isort: split
import ultralytics
from ultralytics.nn.tasks import DetectionModel, parse_model
from ultralytics.utils import YAML
from ultralytics.utils.torch_utils import initialize_weights

_FOLDERS = {"yolov8": "v8", "yolo11": "11", "yolo26": "26"}
# P3, P4 and P5 of all families here.
STRIDES = (8.0, 16.0, 32.0)


def family(name: str) -> dict[str, Any]:
    """Return ultralytics' own description of a family, as its YAML file gives it."""
    path = Path(ultralytics.__file__).parent / "cfg" / "models" / _FOLDERS[name] / f"{name}.yaml"
    found: dict[str, Any] = YAML.load(path)
    return found


def build(description: Mapping[str, Any]) -> DetectionModel:
    """Return the network of a description with fresh weights, on the default device, "meta" included.

    `DetectionModel(description)` gives the same, but measures its strides by running, which "meta" does not allow.
    """
    network = DetectionModel.__new__(DetectionModel)
    nn.Module.__init__(network)
    network.yaml = {**deepcopy(dict(description)), "channels": 3}
    network.model, network.save = parse_model(deepcopy(network.yaml), ch=3, verbose=False)
    network.names = {index: str(index) for index in range(network.yaml["nc"])}
    network.inplace, network.task = True, "detect"
    head = network.model[-1]
    head.inplace = True
    head.stride = network.stride = torch.tensor(STRIDES, device="cpu")
    head.bias_init()
    initialize_weights(network)
    return network


def marked(network: DetectionModel, full_widths: Sequence[int | None], expansions: Sequence[float]) -> DetectionModel:
    """Mark all layers of a network and return it.

    For each of its rows, `full_widths` has the output channels of the widest network and `expansions` the ratio of
    channels inside the block.
    """
    channels: list[Channels] = []
    for index, layer in enumerate(network.model):
        sources = [layer.f] if isinstance(layer.f, int) else layer.f
        into = [channels[source] if channels else Channels.first(3, 3) for source in sources]
        channels.append(_mark_row(layer, into, full_widths[index], expansions[index]))
    return network


def _mark_row(layer: Any, into: Sequence[Channels], full: int | None, expansion: float) -> Channels:
    kind = type(layer).__name__
    if kind == "Detect":
        parts.detect(layer, into)
    if full is None:  # Upsample, Concat, Detect
        return parts.joined(*into)
    count = (layer if kind == "Conv" else layer.cv3 if hasattr(layer, "cv3") else layer.cv2).conv.out_channels
    out = Channels.first(count, full)
    if kind == "Conv":
        parts.conv(layer, into[0], out)
    elif kind in parts.BLOCKS:
        parts.BLOCKS[kind](layer, into[0], out, expansion)
    else:
        {"SPPF": parts.sppf, "C2PSA": parts.c2psa}[kind](layer, into[0], out)
    return out


class Deployed(nn.Module):
    """A detector as it is handed out: fused, of two heads the one in use, and without decoding.

    It makes (n, 4 bins + classes, anchors) of pictures (n, 3, H, W): see milonga.detections.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).eval().fuse(verbose=False)

    def forward(self, pictures: Tensor) -> Tensor:
        *body, head = self.network.model
        made: list[Any] = []
        last: Any = pictures
        for layer in body:
            # ultralytics.nn.tasks.BaseModel._predict_once
            if layer.f != -1:
                last = (
                    made[layer.f] if isinstance(layer.f, int) else [last if one == -1 else made[one] for one in layer.f]
                )
            last = layer(last)
            made.append(last)
        found = head.forward_head([made[one] for one in head.f], **head.one2many)
        return torch.cat([found["boxes"], found["scores"]], dim=1)


def write_checkpoint(network: nn.Module, class_names: Sequence[str], path: str | Path, resolution_px: int = 0) -> None:
    """Write a subnet so that `ultralytics.YOLO(path)` loads it anywhere, without this project: float32, unfused.

    `resolution_px` becomes the default picture size of predict, val and export; 0 takes the one in the description.
    The file is replaced in one step. Raises ValueError where the names are not one for each class.
    """
    if len(class_names) != network.yaml["nc"]:
        raise ValueError(f"{len(class_names)} class names for a network of {network.yaml['nc']} classes")
    own = deepcopy(network).cpu().float().eval()
    for layer in own.modules():
        layer.__dict__.pop("part", None)
    own.names = dict(enumerate(class_names))
    resolution_px = resolution_px or int(own.yaml.get("resolution_px", 640))
    content = {
        "epoch": -1,
        "model": own,
        "ema": None,
        "optimizer": None,
        "train_args": {"task": "detect", "imgsz": resolution_px},
        "date": datetime.now(UTC).isoformat(),
        "version": ultralytics.__version__,
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
