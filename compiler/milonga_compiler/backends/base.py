"""What an engine's back end must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.target import Target

# float32 (n, 3, H, W) in, float32 (n, classes) out.
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BuiltModel:
    """Files of a built network, relative to the folder that it was built in; `model_file` is the one to load."""

    model_file: str
    files: list[str]
    note: str = ""


class Backend(ABC):
    """Builds networks for one engine and can run what it built."""

    name: str
    # What a device must have installed, as a version specifier.
    requirement: str
    # Whether the makers have run this engine on the hardware that it is for.
    verification: str

    @abstractmethod
    def build(self, onnx_path: Path, target: Target, folder: Path, calibration: Floats | None) -> Iterable[BuiltModel]:
        """Return variants of the build, the preferred first; the gate takes the first that holds and asks for no more.

        `calibration` is float32 (n, 3, H, W), normalised; int8 needs it. Raises BuildFailed.
        """

    @abstractmethod
    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        """Return logits (n, classes) of normalised inputs (n, 3, H, W)."""
