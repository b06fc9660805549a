"""Accuracies of subnets that were really run, each evaluated once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from milonga_hub.learning.classification import Classification, accuracy
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.subnets import quantized, written
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.train import subnet


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

    def count(self, precision: str = "fp32") -> int:
        return sum(name == precision for _, name in self._known)

    def all(self, precision: str = "fp32") -> dict[Encoding, float]:
        """Return everything that was asked for in this precision."""
        return {encoding: value for (encoding, name), value in self._known.items() if name == precision}

    def accuracy(self, encoding: Encoding, precision: str = "fp32") -> float:
        """Return the share of validation pictures that the subnet gets right; fp16 counts as fp32."""
        key = (encoding, "int8" if precision == "int8" else "fp32")
        if key not in self._kept:
            found = self._int8_logits(encoding) if key[1] == "int8" else self.logits(encoding)
            self._kept[key] = accuracy(found, self.task.data.y_val)
            kept = [[list(one), name, value] for (one, name), value in self._kept.items()]
            self._write(self._path, json.dumps(kept))
        self._known[key] = self._kept[key]
        return self._known[key]

    def known(self, encoding: Encoding, precision: str = "fp32") -> float | None:
        return self._known.get((encoding, "int8" if precision == "int8" else "fp32"))

    def logits(self, encoding: Encoding) -> torch.Tensor:
        network = subnet(self.supernet, encoding, self.task)
        return self.task.logits(network, self.supernet.space.resolution(encoding))

    def onnx(self, encoding: Encoding) -> Path:
        return written(self.supernet, encoding, self.task.calibration, self.folder / "candidates")

    def exported(self, encoding: Encoding, precision: str) -> dict[str, Any]:
        """Return what builds of the subnet are made from and held against, as plain JSON."""
        path = self.onnx(encoding)
        logits = path.with_suffix(".npy")
        if not logits.exists():
            np.save(logits, self.logits(encoding).numpy())
        measured = self.int8(encoding) if precision == "int8" else path
        return {"onnx": str(path), "measured_onnx": str(measured), "logits": str(logits)}

    def int8(self, encoding: Encoding) -> Path:
        return quantized(self.onnx(encoding), self.task.pictures(self.supernet.space.resolution(encoding)))

    def _int8_logits(self, encoding: Encoding) -> torch.Tensor:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(self.int8(encoding)), options, providers=["CPUExecutionProvider"])
        pictures = self.task.data.validation(self.supernet.space.resolution(encoding)).split(256)
        return torch.cat([torch.from_numpy(session.run(["logits"], {"image": part.numpy()})[0]) for part in pictures])
