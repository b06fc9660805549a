"""What networks are asked for."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    CLASSIFICATION = "CLASSIFICATION"
    DETECTION = "DETECTION"

    @property
    def measure(self) -> str:
        """Return what the accuracy of a network is called."""
        return "mAP50-95" if self is Task.DETECTION else "accuracy"

    @property
    def counted(self) -> str:
        """Return what a data set counts for each class."""
        return "boxes" if self is Task.DETECTION else "pictures"
