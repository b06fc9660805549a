"""Beside the answers of a worker: look at each picture, and keep a few of them, redacted, for the hub."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from milonga import pictures
from milonga.v1 import agent_pb2, labelling_pb2
from numpy.typing import NDArray
from PIL import Image

from milonga_agent.answers import Answer
from milonga_agent.errors import AgentError, DiskFull
from milonga_agent.redaction import Redaction, encoded, redaction
from milonga_agent.sample_folder import SampleFolder
from milonga_agent.sampling import Box, Candidate, Chooser, Novelty, Policy, Reason

_log = logging.getLogger(__name__)

# Small pictures lose by JPEG what little they show.
_SMALL_PX = 128


class Sampler:
    """Chooses in the threads of requests, which takes less than reading their pictures; writes in a thread of its own."""

    def __init__(
        self,
        policy: Policy,
        model_version: str,
        folder: SampleFolder,
        redact: Redaction,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._model_version = model_version
        self._folder = folder
        self._redact = redact
        self._clock = clock
        self._novelty = Novelty()
        # Which picture is chosen by chance is nobody's secret.
        self._chooser = Chooser(policy, clock(), random.Random())
        self._ended = False
        self._changed = threading.Condition()

    @classmethod
    def told(cls, told: Mapping[str, Any], model_version: str) -> Sampler:
        """Return a sampler for what the daemon says. Raises AgentError where the redaction is none."""
        folder = SampleFolder(Path(told["folder"]), told["redact"])
        return cls(Policy.of(told["policy"]), model_version, folder, redaction(told["redact"]))

    def start(self) -> None:
        threading.Thread(target=self._run, name="samples", daemon=True).start()

    def stop(self) -> None:
        """Keep nothing more, not even what is chosen already."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def see(
        self,
        encoded_: Sequence[bytes],
        decoded: Sequence[Image.Image],
        arrays: Sequence[NDArray[np.uint8]],
        answer: Answer,
    ) -> None:
        """Consider the pictures of one request: as they were sent, as read, as uint8 (3, H, W), and what was answered."""
        now = time.time()
        said = list(_predictions(answer, [image.size for image in decoded]))
        # As the network has them, where it tells: what it has never seen may look like any other picture.
        looks = [pictures.look(array) for array in arrays] if answer.embeddings is None else answer.embeddings
        with self._changed:
            for data, look, (predicted, confidence, boxes) in zip(encoded_, looks, said):
                novelty = self._novelty.of(look)
                self._chooser.offer(Candidate(data, predicted, confidence, novelty, now, boxes))
            self._changed.notify_all()

    def keep_due(self) -> bool:
        """Keep the choice of a slot that has ended; return whether there was one."""
        with self._changed:
            chosen = None if self._ended else self._chooser.take(self._clock())
        if chosen is None:
            return False
        try:
            self._keep(*chosen)
        except (AgentError, OSError, MemoryError, pictures.PictureError) as error:
            # Fails closed: what could not be redacted is never kept.
            _log.error("a picture was not kept for labelling: %s", error)
            if not isinstance(error, DiskFull):
                self._folder.count_dropped()
        return True

    def _run(self) -> None:
        while True:
            self.keep_due()
            with self._changed:
                if self._ended:
                    return
                left = self._chooser.ends_at - self._clock()
                # A slot that ended without a picture waits for the next request.
                self._changed.wait(left if left > 0 else None)

    def _keep(self, reason: Reason, chosen: Candidate) -> None:
        now = time.time()
        picture = self._redact.redact(self._smaller(pictures.decode(chosen.data)))
        # A program may make a larger picture of it, which the hub would not take.
        picture = self._smaller(picture)
        data = encoded(picture, "PNG" if max(picture.size) <= _SMALL_PX else "JPEG")
        if not self._folder.may_take(self._policy.pictures_per_day, self._policy.bytes_per_day, len(data), now):
            return
        header = agent_pb2.SampleHeader(
            digest="sha256:" + hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            project=self._policy.project,
            model_version=self._model_version,
            reason=labelling_pb2.SampleReason.Value(f"SAMPLE_REASON_{reason.value}"),
            predicted=chosen.predicted,
            predicted_boxes=[labelling_pb2.SampleBox(**vars(box)) for box in chosen.boxes],
            confidence=chosen.confidence,
        )
        header.taken_at.FromNanoseconds(int(chosen.taken_at * 1e9))
        self._folder.put(agent_pb2.KeptSample(header=header, picture=data), now)

    def _smaller(self, picture: Image.Image) -> Image.Image:
        """Return the picture itself, no larger than the project takes."""
        picture.thumbnail((self._policy.max_side_px,) * 2)
        return picture


def _predictions(answer: Answer, sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, float, tuple[Box, ...]]]:
    """Yield of each picture the class and confidence, or boxes and the lowest of their scores: 1 where there is none."""
    values = answer.values
    if "boxes" not in values:
        yield from ((name, float(sure), ()) for name, sure in zip(values["class"], answer.confidences))
        return
    start = 0
    for count, (width, height) in zip(values["count"], sizes):
        end = start + int(count)
        scores = values["scores"][start:end]
        boxes = tuple(
            _box(name, corners, float(score), width, height)
            for name, corners, score in zip(values["class"][start:end], values["boxes"][start:end], scores)
        )
        yield "", float(scores.min()) if len(scores) else 1.0, boxes
        start = end


def _box(label: str, corners: Any, score: float, width: int, height: int) -> Box:
    left, top, right, bottom = (float(each) for each in corners)
    return Box(
        label,
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
        score,
    )
