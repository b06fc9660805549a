"""Which pictures a data set version holds, and into which split each one goes."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from milonga_hub.errors import InvalidInput

TRAIN, VALIDATION = "train", "validation"

# One picture in five validates.
_VALIDATION_SHARE = 5


@dataclass(frozen=True)
class Sample:
    """One labelled picture of a version. `added_in` is the version in which it first appeared."""

    digest: str
    label: str
    split: str
    added_in: int
    path: str


@dataclass(frozen=True)
class Labelled:
    """A picture as it was sent: where it stood, and what it is said to show."""

    digest: str
    label: str
    path: str


@dataclass(frozen=True)
class Merged:
    """The samples of a new version, and what was left out on the way."""

    samples: tuple[Sample, ...]
    duplicate_count: int
    # Path -> reason.
    refused: Mapping[str, str]


def split_of(digest: str) -> str:
    """Return the split of a picture. It depends on the content alone, so no later version moves it."""
    return VALIDATION if int(digest.removeprefix("sha256:")[:8], 16) % _VALIDATION_SHARE == 0 else TRAIN


def merge(known: Sequence[Sample], sent: Iterable[Labelled], number: int, replaced: Sequence[Sample] = ()) -> Merged:
    """Return the samples of version `number`: those known and those sent, each content once.

    `replaced` are the samples of the version before where it is not added to but replaced: a picture that stays keeps
    its split and the version in which it first appeared, also under another label.

    A content that is sent under two labels, or under another label than the known one, is refused: one of them is wrong.
    """
    samples = {sample.digest: sample for sample in known}
    first_path: dict[str, str] = {sample.digest: sample.path for sample in known}
    fixed, earlier = frozenset(samples), {sample.digest: sample for sample in replaced}
    duplicates, refused, contradicted = 0, {}, set()
    for picture in sent:
        before = samples.get(picture.digest)
        if before is None and picture.digest not in contradicted:
            samples[picture.digest] = _sample(picture, number, earlier.get(picture.digest))
            first_path[picture.digest] = picture.path
        elif before is not None and before.label == picture.label:
            duplicates += 1
        else:
            other = before.label if before else "another class"
            refused[picture.path] = f"the same picture stands in class {other!r} too, as {first_path[picture.digest]}"
            if before is not None and picture.digest not in fixed:
                del samples[picture.digest]
                contradicted.add(picture.digest)
                refused[before.path] = f"the same picture stands in class {picture.label!r} too, as {picture.path}"
    ordered = _with_both_splits(sorted(samples.values(), key=lambda sample: sample.digest), number)
    return Merged(tuple(ordered), duplicates, refused)


def _sample(picture: Labelled, number: int, earlier: Sample | None) -> Sample:
    if earlier is not None:
        return replace(earlier, label=picture.label, path=picture.path)
    return Sample(picture.digest, picture.label, split_of(picture.digest), number, picture.path)


def _with_both_splits(samples: list[Sample], number: int) -> list[Sample]:
    """Give each class of two or more at least one picture in each split.

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


def digest_of_version(samples: Sequence[Sample]) -> str:
    """Return the digest over all pictures, labels and splits: equal content, equal digest."""
    lines = sorted(f"{sample.digest} {sample.split} {sample.label}\n" for sample in samples)
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


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


def natural(names: Iterable[str]) -> list[str]:
    """Return the names sorted as people would: 2 before 10."""
    return sorted(names, key=lambda name: (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name))
