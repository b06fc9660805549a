"""Which pictures are taken, in which order they are asked about, and what labels say about the devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from milonga_hub.errors import InvalidInput
from milonga_hub.labelling.models import LabelledAccuracy, SampleBox, SampleReason, SampleView
from milonga_hub.projects.models import SamplingSpec
from milonga_hub.tasks import Task

# A device makes its pictures no larger than the project says; 8 MiB hold a JPEG of 8192 by 8192 that shows much.
MAX_SAMPLE_BYTES = 8 << 20
MEGABYTE = 1_000_000
# What a device may send is counted over so long.
DAY = timedelta(hours=24)
_MAX_BOXES = 300
_MAX_TEXT = 200

# Root mean square of the differences of two looks below which pictures are taken for the same: six levels of 255. Noise of
# a sensor and of JPEG, averaged over a 64th of a picture, is below one; the nearest two of the 1,797 handwritten digits
# of scikit-learn that show different digits are at 0.15.
ALIKE = 6.0 / 255.0
# Pictures that far apart are taken for unrelated: half of the pairs of those digits are farther than 0.38.
_UNRELATED = 0.3
# Every fourth question is about a picture that was chosen by chance, in the order of arrival: they alone tell how often
# devices are right, and would not if doubtful ones came first.
_CHANCE_EVERY = 4

Look = NDArray[np.float32]
T = TypeVar("T")


def look_of(stored: bytes) -> Look:
    """Return a look (192,), each 0 to 1, from how it is stored."""
    return np.frombuffer(stored, dtype=np.uint8).astype(np.float32) / np.float32(255.0)


def stored_look(look: Look) -> bytes:
    return bytes(np.rint(look * 255.0).astype(np.uint8).tobytes())


def distances(look: Look, others: NDArray[np.float32]) -> Look:
    """Return how far a look (k,) is from others (n, k), from 0 to 1."""
    return np.asarray(np.sqrt(np.mean((others - look) ** 2, axis=1)), dtype=np.float32)


def alike(look: Look, others: Sequence[bytes]) -> int | None:
    """Return the place of the most similar of the others, None where all look different."""
    if not others:
        return None
    away = distances(look, np.stack([look_of(one) for one in others]))
    nearest = int(away.argmin())
    return nearest if away[nearest] <= ALIKE else None


@dataclass(frozen=True)
class Doubt:
    """What the order of questions depends on."""

    confidence: float
    look: bytes
    by_chance: bool


def order(waiting: Sequence[Doubt], count: int) -> list[int]:
    """Return the places of the next `count` pictures to ask about, of those that wait in the order of arrival.

    The least confident first, each discounted by how near it is to those before it, so that one kind of doubt is not
    asked about twenty times; in between, those that were chosen by chance.
    """
    chance = [place for place, one in enumerate(waiting) if one.by_chance]
    doubtful = _diverse([place for place, one in enumerate(waiting) if not one.by_chance], waiting, count)
    found: list[int] = []
    while len(found) < count and (chance or doubtful):
        by_chance = len(found) % _CHANCE_EVERY == _CHANCE_EVERY - 1
        source = (chance or doubtful) if by_chance else (doubtful or chance)
        found.append(source.pop(0))
    return found


def _diverse(places: list[int], waiting: Sequence[Doubt], count: int) -> list[int]:
    if not places:
        return []
    looks = np.stack([look_of(waiting[place].look) for place in places])
    doubts = np.array([1.0 - waiting[place].confidence for place in places], dtype=np.float32)
    # A little above nothing: what the model is sure of comes last, and still in an order.
    doubts = np.maximum(doubts, np.float32(1e-3))
    nearest = np.full(len(places), np.inf, dtype=np.float32)
    left = np.ones(len(places), dtype=bool)
    found = []
    for _ in range(min(count, len(places))):
        worth = np.where(left, doubts * np.minimum(1.0, nearest / _UNRELATED), -1.0)
        best = int(worth.argmax())
        found.append(places[best])
        left[best] = False
        nearest = np.minimum(nearest, distances(looks[best], looks))
    return found


def bytes_per_day(spec: SamplingSpec) -> int:
    return int(spec.megabytes_per_day * MEGABYTE)


def within_day(spec: SamplingSpec, pictures: int, size_bytes: int, sent: Sequence[T]) -> list[T]:
    """Return those of the offered pictures that a device may send now, having sent so much in the last 24 hours."""
    if size_bytes >= bytes_per_day(spec):
        return []
    return list(sent[: max(0, spec.pictures_per_day - pictures)])


def is_spent(spec: SamplingSpec, pictures: int, size_bytes: int) -> bool:
    """Return whether a device that has sent so much in 24 hours may send no picture more, as large as those."""
    return pictures >= spec.pictures_per_day or size_bytes * (pictures + 1) > bytes_per_day(spec) * pictures > 0


def free_at(spec: SamplingSpec, sent: Sequence[tuple[datetime, int]]) -> datetime | None:
    """Return when a device may send again that has sent pictures of so many bytes in 24 hours, the oldest first; None for now."""
    count, size_bytes, when = len(sent), sum(size for _, size in sent), None
    for received_at, size in sent:
        if not is_spent(spec, count, size_bytes):
            break
        when = received_at + DAY
        count, size_bytes = count - 1, size_bytes - size
    return when


def fraction(value: float) -> float:
    """Return what a device says is from 0 to 1 as that, whatever it is."""
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0


def told_boxes(boxes: Sequence[SampleBox]) -> list[SampleBox]:
    """Return the boxes that a device predicted, bounded in all that they say."""
    return [
        SampleBox(
            label=text(box.label),
            x=fraction(box.x),
            y=fraction(box.y),
            width=fraction(box.width),
            height=fraction(box.height),
            score=fraction(box.score),
        )
        for box in boxes[:_MAX_BOXES]
    ]


def text(value: str) -> str:
    """Return what a device wrote without what is no text, and no longer than a name is."""
    return "".join(each for each in value if each.isprintable())[:_MAX_TEXT]


def check_label(task: Task, classes: Sequence[str], label: str, boxes: Sequence[SampleBox]) -> None:
    """Raise InvalidInput for a label that the data set could not hold, saying what it can."""
    if task is Task.CLASSIFICATION:
        if boxes:
            raise InvalidInput("this project tells classes apart; give a label and no boxes")
        _check_class(label, classes)
        return
    if label:
        raise InvalidInput("this project detects objects; give boxes, or none where there is no object, and no label")
    if len(boxes) > _MAX_BOXES:
        raise InvalidInput(f"a picture may have {_MAX_BOXES} boxes; these are {len(boxes)}")
    for box in boxes:
        _check_class(box.label, classes)
        sides = (box.x - box.width / 2, box.y - box.height / 2, box.x + box.width / 2, box.y + box.height / 2)
        # Rounding may carry a box at the border a hair beyond it.
        inside = all(-1e-4 <= side <= 1.0001 for side in sides)
        if not inside or box.width <= 0 or box.height <= 0:
            raise InvalidInput(
                f"the box of {box.label!r} is not inside of the picture; x, y (its centre), width and height are from 0 to 1"
            )


def _check_class(label: str, classes: Sequence[str]) -> None:
    if label not in classes:
        raise InvalidInput(
            f"{label!r} is not a class of the data set; its classes are {', '.join(map(repr, classes[:30]))}; a new one comes"
            " with an import: milonga datasets import --append"
        )


def was_right(sample: SampleView) -> bool:
    """Return whether the device's answer is what a person said: the same class, or the same objects one by one."""
    if sample.predicted or sample.label:
        return sample.predicted == sample.label
    return same_objects(sample.predicted_boxes, sample.boxes)


def same_objects(some: Sequence[SampleBox], others: Sequence[SampleBox]) -> bool:
    """Return whether each box of the one has a box of the other in its class with an overlap of half or more, and none is left."""
    left = list(others)
    for predicted in some:
        match = next((box for box in left if box.label == predicted.label and overlap(box, predicted) >= 0.5), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def overlap(one: SampleBox, other: SampleBox) -> float:
    """Return the intersection over the union of two boxes."""
    shared = 1.0
    for centre, side in (("x", "width"), ("y", "height")):
        ends = [
            (getattr(b, centre) - getattr(b, side) / 2, getattr(b, centre) + getattr(b, side) / 2) for b in (one, other)
        ]
        shared *= max(0.0, min(end for _, end in ends) - max(begin for begin, _ in ends))
    union = one.width * one.height + other.width * other.height - shared
    return shared / union if union > 0 else 0.0


def accuracies(samples: Sequence[SampleView]) -> list[LabelledAccuracy]:
    """Return how often devices were right, by type, judged by labels of pictures that were chosen by chance."""
    by_type: dict[str, list[bool]] = {}
    for sample in samples:
        if sample.reason is SampleReason.RANDOM:
            by_type.setdefault(sample.device_type, []).append(was_right(sample))
    return [_accuracy(name, outcomes) for name, outcomes in sorted(by_type.items())]


def accuracy(samples: Sequence[SampleView]) -> LabelledAccuracy | None:
    """Return how often devices of all types were right on labelled pictures; None without any."""
    outcomes = [was_right(sample) for sample in samples]
    return _accuracy("", outcomes) if outcomes else None


def _accuracy(device_type: str, outcomes: Sequence[bool]) -> LabelledAccuracy:
    count, right = len(outcomes), sum(outcomes)
    share = right / count
    # Wilson's score interval (1927), z of 95 %.
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return LabelledAccuracy(
        device_type=device_type,
        labelled=count,
        right=right,
        accuracy=share,
        low=max(0.0, centre - half),
        high=min(1.0, centre + half),
    )
