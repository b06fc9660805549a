"""What data sets are told by. Without tables: the command line reads it too, and need not wait for what stores rows."""

from __future__ import annotations

from enum import StrEnum


class Layout(StrEnum):
    """How labelled pictures lie in an archive."""

    CLASS_FOLDERS = "CLASS_FOLDERS"
    YOLO = "YOLO"
    COCO = "COCO"
    VOC = "VOC"

    @property
    def spoken(self) -> str:
        """Return what people call it."""
        return {"CLASS_FOLDERS": "class folders", "VOC": "Pascal VOC"}.get(self.value, self.value)
