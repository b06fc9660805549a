"""A bundle that is loaded and can answer: pictures or tensors in, classes or boxes out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from milonga import pictures, preprocessing
from milonga.candidates import Candidate, candidates, finished
from milonga.embeddings import EMBEDDING, Cells
from milonga.inputs import Input, Placement

from milonga_agent.answers import Answer, Output, answering
from milonga_agent.errors import BadBundle, BadRequest
from milonga_agent.observe import Window
from milonga_agent.runtimes import load
from milonga_agent.runtimes.base import Floats

if TYPE_CHECKING:
    from milonga_agent.copying import Copier
    from milonga_agent.sampler import Sampler

_PROBE_REPEATS = 5


class Served:
    """One bundle in one engine."""

    def __init__(self, folder: Path, threads: int, target: str = "", model: Path | None = None) -> None:
        """Load the bundle in the engine of this target, from `model` where the device built that itself.

        Without a target it is the first engine whose build is in the bundle. Raises BadBundle or EngineMissing.
        """
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            # Bundles that were built without a hub may have none.
            self.project = str(self.manifest["project"]) or "model"
            described = self.manifest["input"]
            self.input_shape = tuple(int(size) for size in described["shape"][1:])
            self._input = Input.of(described)
            for step in self._input.steps:
                preprocessing.step(step)
            self._looks_at_inputs = self.manifest.get("statistics_of") == pictures.OF_INPUTS
            self._answering = answering(self.manifest)
            wanted = self._wanted(target)
            # None: of bundles without a second output nothing is counted.
            self._cells = Cells.of(self.manifest[EMBEDDING]) if EMBEDDING in self.manifest else None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
            raise BadBundle(f"{folder / 'manifest.json'} is not a manifest that can be served: {error!r}") from error
        self._folder, self._target = folder, wanted.target
        self._runtime = load(wanted.engine, model or folder / wanted.model_file, threads)
        self.window = Window(len(self.manifest["classes"]), self._cells.count if self._cells else 0)
        # None: no picture is looked at for any other purpose than to answer.
        self.sampler: Sampler | None = None
        # None: no request goes to a shadow.
        self.copier: Copier | None = None

    def _wanted(self, target: str) -> Candidate:
        if not target:
            found = finished(self.manifest)
        else:
            found = next((one for one in candidates(self.manifest) if one.target == target), None)
        if found is None:
            raise ValueError(f"no build for {target or 'an engine that is installed'} is in it")
        return found

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Return the outputs that may be asked for."""
        return self._answering.outputs

    @property
    def version(self) -> str:
        """Return the number of the model version, the last part of its name."""
        return str(self.manifest["model_version"]).rpartition("/")[2]

    def probe(self) -> float:
        """Run the bundle's own example and return the largest error. Raises BadBundle where it is too large."""
        probe = self._wanted(self._target).probe
        inputs = np.load(str(self._folder / probe.input_file))
        expected = np.load(str(self._folder / probe.expected_file))
        logits = self._runtime.run(inputs)
        if logits.shape != expected.shape or not np.isfinite(logits).all():
            raise BadBundle(
                f"the probe gave {logits.shape} values, some not finite, where {expected.shape} were expected"
            )
        error = float(np.abs(logits - expected).max())
        if error > probe.max_abs_error:
            raise BadBundle(
                f"the probe's outputs differ by up to {error:.3g} from those expected, {probe.max_abs_error:.3g}"
                " allowed: this engine does not compute what was built"
            )
        return error

    def probe_ms(self) -> float:
        """Return how long one answer takes at best, in milliseconds: what else goes on now is not the bundle's fault."""
        inputs = np.load(str(self._folder / self.manifest["probe"]["input_file"]))[:1]
        times = []
        for _ in range(_PROBE_REPEATS):
            began = time.perf_counter()
            self._runtime.run(inputs)
            times.append((time.perf_counter() - began) * 1e3)
        return min(times)

    def demand(self, slowest_ms: float) -> None:
        """Raise BadBundle where one answer takes longer than this."""
        taken = self.probe_ms()
        if taken > slowest_ms:
            raise BadBundle(
                f"one answer takes {taken:.3g} ms at best, and {slowest_ms:.3g} ms are the most that was to be expected of"
                " this type of device; see whether it is throttled or short of memory"
            )

    def of_pictures(self, encoded: Sequence[bytes]) -> Answer:
        """Answer for encoded pictures. Raises BadRequest for one that is none."""
        decoded, prepared = [], []
        for index, data in enumerate(encoded):
            try:
                decoded.append(pictures.decode(data))
                prepared.append(self._input.prepared(decoded[-1]))
            except ValueError as error:  # PictureError is one.
                raise BadRequest(f"picture {index}: {error}") from error
        placed = [self._input.place(image) for image in prepared]
        # Held against what the network learned from; the size is that of what came.
        looked_at = [self._input.shown(*one) for one in placed] if self._looks_at_inputs else prepared
        seen = [{**pictures.statistics(image), "size": pictures.size(came)} for image, came in zip(looked_at, decoded)]
        inputs = self._input.normalise(np.stack([array for array, _ in placed]))
        answer = self._run(inputs, [placement for _, placement in placed], seen)
        sampler = self.sampler
        if sampler is not None:
            sampler.see(encoded, decoded, [array for array, _ in placed], answer)
        return answer

    def sample(self, told: Mapping[str, Any] | None) -> None:
        """Keep pictures for labelling as told from now on, or none. Raises AgentError where the redaction is none."""
        before, self.sampler = self.sampler, None
        if before is not None:
            before.stop()
        if told is not None:
            # What it needs is loaded where it is needed.
            from milonga_agent.sampler import Sampler

            self.sampler = Sampler.told(told, str(self.manifest["model_version"]))
            self.sampler.start()

    def copy(self, told: Mapping[str, Any] | None) -> None:
        """Send copies of the requests to the shadow that is told from now on, or none."""
        before, self.copier = self.copier, None
        if before is not None:
            before.stop()
        if told is not None:
            from milonga_agent.copying import Copier

            self.copier = Copier(str(told["address"]), float(told["share"]))
            self.copier.start()

    def of_tensor(self, inputs: Floats) -> Answer:
        """Answer for normalised pictures (n, 3, H, W); boxes are then in their pixels. Raises BadRequest for another shape."""
        if inputs.ndim != 4 or inputs.shape[1:] != self.input_shape or not len(inputs):
            expected = ", ".join(str(size) for size in self.input_shape)
            raise BadRequest(
                f"image has the shape {list(inputs.shape)}; it must be [n, {expected}] with n of 1 or more"
            )
        itself = Placement(inputs.shape[3], inputs.shape[2], 1.0, 1.0)
        return self._run(np.ascontiguousarray(inputs, dtype=np.float32), [itself] * len(inputs), [])

    def _run(self, inputs: Floats, placements: Sequence[Placement], seen: Sequence[Mapping[str, float]]) -> Answer:
        began = time.perf_counter()
        output, embedding = self._runtime.run_embedding(inputs)
        milliseconds = (time.perf_counter() - began) * 1e3
        answer = self._answering.answer(output, placements)
        places: Sequence[int] = ()
        if self._cells and embedding is not None and np.isfinite(embedding).all():
            places, answer = self._cells.places(embedding), replace(answer, embeddings=embedding)
        answer = replace(answer, milliseconds=milliseconds)
        self.window.answered(milliseconds, answer.confidences, answer.classes, seen, places)
        return answer
