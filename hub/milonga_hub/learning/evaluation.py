"""Accuracies of subnets that were really run, each evaluated once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from milonga_compiler.backends import backend
from milonga_compiler.engines import Precision
from milonga_compiler.errors import CannotRunHere
from milonga_compiler.target import Target

from milonga_hub.learning.built import Built, built
from milonga_hub.learning.classification import Classification, accuracy
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.subnets import written
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.train import subnet

# As trained: fp32, which every engine computes alike.
PLAIN = Target("reference", Precision.FP32)


class Evaluated:
    """Accuracies on the validation split, kept in a file as they come, so that a restart evaluates none of them again."""

    def __init__(
        self, supernet: Supernet, task: Classification, folder: Path, write: Callable[[Path, str], None]
    ) -> None:
        """`write` replaces a file in one step."""
        self.supernet, self.task, self.folder = supernet, task, folder
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
        """Return the share of validation pictures that the subnet gets right, run by the target's engine.

        In fp32 all engines count as one: builds are held to the same outputs. An engine that only devices run counts as fp32,
        too. Raises CompilerError where the engine fails.
        """
        key = (encoding, _name(target))
        if key not in self._kept:
            exact = target.precision is Precision.FP32
            found = self.logits(encoding) if exact else self._built_logits(encoding, target)
            self._kept[key] = accuracy(found, self.task.data.y_val)
            kept = [[list(one), name, value] for (one, name), value in self._kept.items()]
            self._write(self._path, json.dumps(kept))
        self._known[key] = self._kept[key]
        return self._known[key]

    def known(self, encoding: Encoding, target: Target = PLAIN) -> float | None:
        return self._known.get((encoding, _name(target)))

    def logits(self, encoding: Encoding) -> torch.Tensor:
        network = subnet(self.supernet, encoding, self.task)
        return self.task.logits(network, self.supernet.space.resolution(encoding))

    def onnx(self, encoding: Encoding) -> Path:
        return written(self.supernet, encoding, self.task.calibration, self.folder / "candidates")

    def exported(self, encoding: Encoding, target: Target) -> dict[str, Any]:
        """Return what builds of the subnet are made from and held against, and what is measured, as plain JSON."""
        path = self.onnx(encoding)
        logits = path.with_suffix(".npy")
        if not logits.exists():
            np.save(logits, self.logits(encoding).numpy())
        files = {name: str(file) for name, file in self.built(encoding, target).files.items()}
        return {"onnx": str(path), "logits": str(logits), "engine": target.engine, "files": files}

    def built(self, encoding: Encoding, target: Target) -> Built:
        return built(self.onnx(encoding), target, self.task.pictures(self.supernet.space.resolution(encoding)))

    def _built_logits(self, encoding: Encoding, target: Target) -> torch.Tensor:
        pictures = self.task.data.validation(self.supernet.space.resolution(encoding)).numpy()
        engine, model = backend(target.engine), self.built(encoding, target).model
        try:
            return torch.from_numpy(engine.run(model, pictures, torch.get_num_threads()))
        except CannotRunHere:
            return self.logits(encoding)


def _name(target: Target) -> str:
    return PLAIN.precision if target.precision is PLAIN.precision else str(target)
