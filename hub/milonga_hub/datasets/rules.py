"""Which pictures a data set version holds, and into which split each one goes."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from milonga_hub.errors import InvalidInput

TRAIN, VALIDATION = "train", "validation"

# One picture in five validates.
_VALIDATION_SHARE = 5


class Box(NamedTuple):
    """One object in a picture: its class, and its box as centre, width and height from 0 to 1."""

    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Sample:
    """One labelled picture of a version: with its class, or for detection with its boxes and an empty label.

    `added_in` is the version in which it first appeared.
    """

    digest: str
    label: str
    split: str
    added_in: int
    path: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """A picture as it was sent: where it stood, what it is said to show, and its split where the sender chose one."""

    digest: str
    label: str
    path: str
    boxes: tuple[Box, ...] = ()
    split: str = ""

    def contradicts(self, other: Labelled | Sample) -> bool:
        """Whether the same picture is said to show something else."""
        return (self.label, self.boxes) != (other.label, other.boxes)


@dataclass(frozen=True)
class Merged:
    """The samples of a new version, and what was left out on the way."""

    samples: tuple[Sample, ...]
    duplicate_count: int
    # Path -> reason.
    refused: Mapping[str, str]
    # What is odd but harmless, in whole sentences.
    notes: tuple[str, ...] = ()


def split_of(digest: str) -> str:
    """Return the split of a picture. It depends on the content alone, so no later version moves it."""
    return VALIDATION if int(digest.removeprefix("sha256:")[:8], 16) % _VALIDATION_SHARE == 0 else TRAIN


def merge(known: Sequence[Sample], sent: Iterable[Labelled], number: int, replaced: Sequence[Sample] = ()) -> Merged:
    """Return the samples of version `number`: those known and those sent, each content once, by their digests.

    `replaced` are the samples of the version before where it is not added to but replaced: a picture that stays keeps
    its split and the version in which it first appeared, also under another label.

    A content that is sent under two labels, or under another label than the known one, is refused: one of them is wrong.
    So it is for boxes. One that is sent for both splits stays where it stood first: nothing is judged by what it learned from.
    """
    samples = {sample.digest: sample for sample in known}
    first_path: dict[str, str] = {sample.digest: sample.path for sample in known}
    fixed, earlier = frozenset(samples), {sample.digest: sample for sample in replaced}
    duplicates, refused, contradicted, across = 0, {}, set(), []
    for picture in sent:
        before = samples.get(picture.digest)
        if before is None and picture.digest not in contradicted:
            samples[picture.digest] = _sample(picture, number, earlier.get(picture.digest))
            first_path[picture.digest] = picture.path
        elif before is not None and not picture.contradicts(before):
            duplicates += 1
            if picture.split not in ("", before.split):
                across.append((picture.path, first_path[picture.digest]))
        else:
            refused[picture.path] = _contradicted(picture, before, first_path[picture.digest])
            if before is not None and picture.digest not in fixed:
                del samples[picture.digest]
                contradicted.add(picture.digest)
                refused[before.path] = _contradicted(before, picture, picture.path)
    ordered = _with_both_splits(sorted(samples.values(), key=lambda sample: sample.digest), number)
    return Merged(tuple(ordered), duplicates, refused, tuple(_notes_across(across)))


def _notes_across(across: Sequence[tuple[str, str]]) -> Iterator[str]:
    if across:
        path, first = across[0]
        more = f" and {len(across) - 1} more" if len(across) > 1 else ""
        yield (
            f"Sent for training and for validation: {path} (the same as {first}){more}; each is kept in one split, so that no"
            " network is judged by what it learned from."
        )


def _contradicted(picture: Labelled | Sample, other: Labelled | Sample | None, path: str) -> str:
    if not picture.label:
        return f"the same picture stands with other boxes too, as {path}"
    return f"the same picture stands in class {other.label if other else 'another class'!r} too, as {path}"


def _sample(picture: Labelled, number: int, earlier: Sample | None) -> Sample:
    split = picture.split or split_of(picture.digest)
    if earlier is not None:
        kept = replace(earlier, label=picture.label, boxes=picture.boxes, path=picture.path)
        return replace(kept, split=picture.split or earlier.split)
    return Sample(picture.digest, picture.label, split, number, picture.path, picture.boxes)


def _with_both_splits(samples: list[Sample], number: int) -> list[Sample]:
    """Give each class of two or more at least one picture in each split; pictures with boxes are one class here.

    Pictures that are new move; an older one only where a replacement left its class with nothing else to move.
    """
    by_label: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_label[sample.label].append(sample)
    moved: dict[str, Sample] = {}
    for group in by_label.values():
        splits = {sample.split for sample in group}
        if len(group) > 1 and len(splits) == 1:
            chosen = next((sample for sample in group if sample.added_in == number), group[0])
            moved[chosen.digest] = replace(chosen, split=VALIDATION if TRAIN in splits else TRAIN)
    return [moved.get(sample.digest, sample) for sample in samples]


def digest_of_version(samples: Sequence[Sample], ordered_classes: Sequence[str] = ()) -> str:
    """Return the digest over all pictures, labels, boxes and splits: equal content, equal digest.

    `ordered_classes` are those of detection, whose numbers are part of what a data set says.
    """
    lines = sorted(f"{sample.digest} {sample.split} {sample.label}{_text(sample.boxes)}\n" for sample in samples)
    lines += [f"{name}\n" for name in ordered_classes]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _text(boxes: Sequence[Box]) -> str:
    return "".join(f" {box.label}:{box.x:g},{box.y:g},{box.width:g},{box.height:g}" for box in boxes)


def check(samples: Sequence[Sample], named_classes: Iterable[str]) -> list[str]:
    """Return the classes, sorted. Raises InvalidInput where nothing could be learned, saying what to change."""
    counts = Counter(sample.label for sample in samples)
    empty = sorted(set(named_classes) - set(counts))
    if empty:
        raise InvalidInput(
            f"class {', '.join(repr(name) for name in empty)} has no usable picture; add some, or remove its folder"
        )
    if not counts:
        raise InvalidInput("there is no usable picture; lay pictures in one folder for each class, CLASS/PICTURE.png")
    if len(counts) == 1:
        raise InvalidInput(
            f"there is only one class, {next(iter(counts))!r}; a classifier needs at least two: one folder for each"
        )
    lonely = sorted(label for label, count in counts.items() if count < 2)
    if lonely:
        raise InvalidInput(
            f"class {', '.join(repr(name) for name in lonely)} has only one picture; each needs at least two, one to"
            " train and one to validate"
        )
    return natural(counts)


def check_boxes(samples: Sequence[Sample]) -> None:
    """Raise InvalidInput where nothing could be learned from pictures with boxes, saying what to change."""
    if not samples:
        raise InvalidInput("there is no usable picture; send pictures together with the files that say what they show")
    for split, fewest in ((TRAIN, 2), (VALIDATION, 1)):
        some = [sample for sample in samples if sample.split == split]
        if len(some) < fewest:
            raise InvalidInput(f"there are {len(some)} usable pictures for {split}; at least {fewest} are needed")
        if not any(sample.boxes for sample in some):
            raise InvalidInput(
                f"no {split} picture has an object; check that the label files belong to the pictures (in YOLO's layout"
                " images/a.png has labels/a.txt)"
            )


def ordered(named: Sequence[str], before: Sequence[str]) -> list[str]:
    """Return class names with those that are known in their known order, so that networks may go on learning."""
    return [*(name for name in before if name in named), *(name for name in named if name not in before)]


def natural(names: Iterable[str]) -> list[str]:
    """Return the names sorted as people would: 2 before 10."""
    return sorted(names, key=lambda name: (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name))
