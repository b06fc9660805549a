"""A bundle that is loaded and can answer: pictures or tensors in, classes out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from milonga import pictures

from milonga_agent.errors import BadBundle, BadRequest
from milonga_agent.observe import Window
from milonga_agent.runtimes import load
from milonga_agent.runtimes.base import Floats


@dataclass(frozen=True)
class Answer:
    """Answers for n inputs: logits and probabilities (n, classes), and the name of the likeliest class of each."""

    logits: Floats
    probabilities: Floats
    classes: list[str]


class Served:
    """One bundle in one engine."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the bundle. Raises BadBundle or EngineMissing."""
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            self.project = str(self.manifest["project"])
            self.classes = [str(name) for name in self.manifest["classes"]]
            described = self.manifest["input"]
            self.input_shape = tuple(int(size) for size in described["shape"][1:])
            self._mean, self._std = described["mean"], described["std"]
            self._size_px = int(described["size_px"])
            model = folder / self.manifest["model_file"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadBundle(f"{folder / 'manifest.json'} is not a manifest that can be served: {error!r}") from error
        self._folder = folder
        self._runtime = load(str(self.manifest["engine"]), model, threads)
        self.window = Window(len(self.classes))

    @property
    def version(self) -> str:
        """Return the number of the model version, the last part of its name."""
        return str(self.manifest["model_version"]).rpartition("/")[2]

    def probe(self) -> float:
        """Run the bundle's own example and return the largest error. Raises BadBundle where it is too large."""
        probe = self.manifest["probe"]
        inputs = np.load(str(self._folder / probe["input_file"]))
        expected = np.load(str(self._folder / probe["expected_file"]))
        logits = self._runtime.run(inputs)
        if logits.shape != expected.shape or not np.isfinite(logits).all():
            raise BadBundle(
                f"the probe gave {logits.shape} values, some not finite, where {expected.shape} were expected"
            )
        error = float(np.abs(logits - expected).max())
        if error > probe["max_abs_error"]:
            raise BadBundle(
                f"the probe's outputs differ by up to {error:.3g} from those expected, {probe['max_abs_error']:.3g}"
                " allowed: this engine does not compute what was built"
            )
        return error

    def of_pictures(self, encoded: Sequence[bytes]) -> Answer:
        """Answer for encoded pictures. Raises BadRequest for one that is none."""
        decoded = []
        for index, data in enumerate(encoded):
            try:
                decoded.append(pictures.decode(data))
            except pictures.PictureError as error:
                raise BadRequest(f"picture {index}: {error}") from error
        arrays = np.stack([pictures.to_array(image, self._size_px) for image in decoded])
        seen = [pictures.statistics(image) for image in decoded]
        return self._run(pictures.normalise(arrays, self._mean, self._std), seen)

    def of_tensor(self, inputs: Floats) -> Answer:
        """Answer for normalised pictures (n, 3, H, W). Raises BadRequest for another shape."""
        if inputs.ndim != 4 or inputs.shape[1:] != self.input_shape or not len(inputs):
            expected = ", ".join(str(size) for size in self.input_shape)
            raise BadRequest(
                f"image has the shape {list(inputs.shape)}; it must be [n, {expected}] with n of 1 or more"
            )
        return self._run(np.ascontiguousarray(inputs, dtype=np.float32), [])

    def _run(self, inputs: Floats, seen: Sequence[Mapping[str, float]]) -> Answer:
        began = time.perf_counter()
        logits = self._runtime.run(inputs)
        milliseconds = (time.perf_counter() - began) * 1e3
        probabilities = pictures.softmax(logits)
        answers = probabilities.argmax(axis=1)
        self.window.answered(milliseconds, probabilities.max(axis=1), answers, seen)
        return Answer(logits, probabilities, [self.classes[index] for index in answers])
