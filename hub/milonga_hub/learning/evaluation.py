"""Accuracies of subnets that were really run, each evaluated once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Floats
from milonga_compiler.engines import Precision
from milonga_compiler.errors import CannotRunHere
from milonga_compiler.target import Target
from torch import nn

from milonga_hub.learning.built import Built, built
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.subnets import written
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.task import Task, runner
from milonga_hub.learning.train import subnet

# As trained: fp32, which every engine computes alike.
PLAIN = Target("reference", Precision.FP32)
# Training pictures that find ranges of activations.
_CALIBRATION_COUNT = 128
# Outputs that builds are compared with may take this much; a detector's are large, and some pictures tell as much as all.
MOST_EXPECTED_BYTES = 64 << 20


class Evaluated:
    """Accuracies on the validation split, kept in a file as they come, so that a restart evaluates none of them again."""

    def __init__(self, supernet: Supernet, task: Task, folder: Path, write: Callable[[Path, str], None]) -> None:
        """`write` replaces a file in one step."""
        self.supernet, self.task, self.folder = supernet, task, folder
        # Recalibrated once for all that is asked of one subnet in a row.
        self._subnet = lru_cache(maxsize=1)(partial(subnet, supernet, task=task))
        self._write = write
        self._path = folder / "evaluated.json"
        known = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else []
        self._kept: dict[tuple[Encoding, str], float] = {(tuple(one), name): value for one, name, value in known}
        # Only what was asked for since the start: a job that was killed then decides as it did before.
        self._known: dict[tuple[Encoding, str], float] = {}

    def count(self, target: Target = PLAIN) -> int:
        return sum(name == _name(target) for _, name in self._known)

    def all(self, target: Target = PLAIN) -> dict[Encoding, float]:
        """Return everything that was asked for with this target."""
        return {encoding: value for (encoding, name), value in self._known.items() if name == _name(target)}

    def accuracy(self, encoding: Encoding, target: Target = PLAIN) -> float:
        """Return how good the subnet is on the validation pictures, run by the target's engine.

        In fp32 all engines count as one: builds are held to the same outputs. An engine that only devices run counts as fp32,
        too. Raises CompilerError where the engine fails.
        """
        key = (encoding, _name(target))
        if key not in self._kept:
            self._kept[key] = self._evaluated(encoding, target)
            kept = [[list(one), name, value] for (one, name), value in self._kept.items()]
            self._write(self._path, json.dumps(kept))
        self._known[key] = self._kept[key]
        return self._known[key]

    def known(self, encoding: Encoding, target: Target = PLAIN) -> float | None:
        return self._known.get((encoding, _name(target)))

    def _size(self, encoding: Encoding) -> int:
        return self.supernet.space.resolution(encoding)

    def _deployed(self, encoding: Encoding) -> nn.Module:
        return self.supernet.space.deployed(self._subnet(encoding))

    def expected(self, encoding: Encoding) -> Floats:
        """Return what the subnet makes (m, ...) of the first validation pictures, as many as are worth keeping."""
        run, parts, size_bytes = runner(self._deployed(encoding)), [], 0
        for part in self.task.validation(self.task.input(self._size(encoding))):
            parts.append(run(part))
            size_bytes += parts[-1].nbytes
            if size_bytes >= MOST_EXPECTED_BYTES:
                break
        return np.concatenate(parts)

    def publish(self, encoding: Encoding) -> Path | None:
        """Write the subnet as its family's own tools load it, and return the path; None where there is no such file."""
        path = self.onnx(encoding).with_suffix(".pt")
        if path.exists():
            return path
        return path if self.supernet.space.publish(self._subnet(encoding), self.task.names, path) else None

    def onnx(self, encoding: Encoding) -> Path:
        return written(self.supernet, encoding, self.task.calibration, self.folder / "candidates")

    def exported(self, encoding: Encoding, target: Target) -> dict[str, Any]:
        """Return what builds of the subnet are made from and held against, and what is measured, as plain JSON."""
        path = self.onnx(encoding)
        expected = path.with_suffix(".npy")
        if not expected.exists():
            np.save(expected, self.expected(encoding))
        return {
            "onnx": str(path),
            "expected": str(expected),
            "subnet_accuracy": self.accuracy(encoding),
            "checkpoint": str(self.publish(encoding) or ""),
            "engine": target.engine,
            "files": {name: str(file) for name, file in self.built(encoding, target).files.items()},
        }

    def built(self, encoding: Encoding, target: Target) -> Built:
        seen = self.task.input(self._size(encoding))
        return built(self.onnx(encoding), target, lambda: self.task.calibrating(seen, _CALIBRATION_COUNT, seed=0))

    def _evaluated(self, encoding: Encoding, target: Target) -> float:
        size = self._size(encoding)
        if target.precision is not Precision.FP32:
            engine, model = backend(target.engine), self.built(encoding, target).model
            with contextlib.suppress(CannotRunHere):
                return self.task.evaluate(lambda some: engine.run(model, some, torch.get_num_threads()), size)
        return self.task.evaluate(runner(self._deployed(encoding)), size)


def _name(target: Target) -> str:
    return PLAIN.precision if target.precision is PLAIN.precision else str(target)
