"""Which split a data.yaml puts each picture of an archive into."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from milonga import yolo

from milonga_hub.datasets.rules import TRAIN, VALIDATION


def splits(
    yaml_path: str,
    described: Mapping[str, Any],
    pictures: Sequence[str],
    texts: Mapping[str, bytes],
    notes: list[str],
) -> dict[str, str]:
    """Return the split of each picture that is in one; nothing where contents are to decide.

    That is where data.yaml names no splits, or where they cannot be what was meant, which is then noted.
    """
    found: dict[str, set[str]] = {}
    for split in ("train", "val"):
        if not described.get(split):
            return {}
        found[split] = set(_named(posixpath.dirname(yaml_path), described, split, pictures, texts))
        if not found[split]:
            notes.append(
                f"{yaml_path} names {described[split]!r} for {split}, where there is no picture; all pictures are split"
                " by their content instead."
            )
            return {}
    if both := found["train"] & found["val"]:
        notes.append(
            f"train and val of {yaml_path} have {len(both)} pictures in common; all pictures are split by their content"
            " instead."
        )
        return {}
    return {**dict.fromkeys(found["train"], TRAIN), **dict.fromkeys(found["val"], VALIDATION)}


def _named(
    base: str, described: Mapping[str, Any], split: str, pictures: Sequence[str], texts: Mapping[str, bytes]
) -> Iterator[str]:
    for alternatives in yolo.places(described, split):
        # The first place with pictures is meant.
        for place in dict.fromkeys(posixpath.normpath(posixpath.join(base, one)) for one in alternatives):
            there = list(_listed(place, texts[place]) if place in texts else _inside(place, pictures))
            if there:
                yield from there
                break


def _inside(place: str, pictures: Sequence[str]) -> Iterator[str]:
    return (name for name in pictures if place == "." or name.startswith(f"{place}/"))


def _listed(place: str, text: bytes) -> Iterator[str]:
    """Yield the pictures of a list file, whose lines are relative to it."""
    folder = posixpath.dirname(place)
    for line in text.decode("utf-8-sig", "replace").splitlines():
        if line.strip():
            yield posixpath.normpath(posixpath.join(folder, line.strip()))
