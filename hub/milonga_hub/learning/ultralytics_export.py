"""Write a checkpoint of ultralytics as ONNX, beside it: python -m milonga_hub.learning.ultralytics_export FILE.pt SIZE_PX.

Loading a checkpoint runs whatever code is in it (it is a pickle of whole modules), so this is a program of its own, that nobody imports.
"""

from __future__ import annotations

import sys
from pathlib import Path


def export(checkpoint: Path, size_px: int) -> None:
    """Write `checkpoint`.onnx; 0 takes the size that it was trained with."""
    from milonga_hub.learning import ultralytics_offline  # noqa: F401  must come before ultralytics

    # isort: split
    from ultralytics import YOLO

    sized = {"imgsz": size_px} if size_px else {}
    YOLO(str(checkpoint)).export(format="onnx", opset=17, simplify=False, device="cpu", **sized)


if __name__ == "__main__":
    export(Path(sys.argv[1]), int(sys.argv[2]))
