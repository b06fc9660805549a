"""What an engine must do on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Runtime(ABC):
    """One loaded model. `input_shape` is (3, H, W), None where a dimension is free."""

    input_shape: tuple[int | None, ...]

    @abstractmethod
    def __init__(self, model: Path, threads: int) -> None:
        """Load the model. Raises EngineMissing, or BadBundle where the engine refuses the file."""

    @abstractmethod
    def run(self, inputs: Floats) -> Floats:
        """Return the first output (n, ...) of normalised pictures (n, 3, H, W), float32: logits (n, classes) or detections."""

    def run_embedding(self, inputs: Floats) -> tuple[Floats, Floats | None]:
        """Return what `run` does, and the second output (n, d); None where the engine or its build has none."""
        return self.run(inputs), None
