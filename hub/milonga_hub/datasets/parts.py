"""Which split pictures are in where names of files and folders say so, and which picture a file name means."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from milonga_hub.datasets.rules import TRAIN, VALIDATION

TEST = "test"
# Between other letters such a word is part of another one: "trainer", "evaluation".
_PART = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test|testing)(?![a-z])")
_PARTS = {"train": TRAIN, "training": TRAIN, "test": TEST, "testing": TEST}


def part_of(path: str) -> str:
    """Return the split that a path names, the last of its parts that does deciding; empty where none does.

    instances_train2017.json, valid/_annotations.coco.json and images/val/ all name one.
    """
    for piece in reversed(PurePosixPath(path).parts):
        if found := _PART.search(piece.lower()):
            return _PARTS.get(found[1], VALIDATION)
    return ""


@dataclass(frozen=True)
class Splits:
    """The split of each picture, nothing where contents are to decide; and the pictures that are in neither."""

    chosen: Mapping[str, str]
    left_out: frozenset[str]
    # In whole sentences.
    notes: tuple[str, ...]


def splits(parts: Mapping[str, Iterable[str]]) -> Splits:
    """Return the splits of pictures, each of which stands in any number of parts: train, validation, test.

    Where train and validation are both there, they are kept. Pictures of test are left out beside pictures to train on:
    they are to judge networks that have never seen them.
    """
    of = {path: set(some) for path, some in parts.items()}
    there = set().union(*of.values()) if of else set()
    if TRAIN not in there:
        return Splits({}, frozenset(), ())
    if both := sorted(path for path, some in of.items() if {TRAIN, VALIDATION} <= some):
        words = f"{len(both)} pictures are in train and in validation, the first of them {both[0]}"
        return Splits({}, frozenset(), (f"{words}; all pictures are split by their content instead.",))
    kept = {path: one for path, some in of.items() for one in (TRAIN, VALIDATION) if one in some}
    if VALIDATION in there:
        left_out, chosen = of.keys() - kept.keys(), kept
    else:
        left_out, chosen = {path for path, some in of.items() if some == {TEST}}, {}
    tests = sorted(path for path in left_out if TEST in of[path])
    others = sorted(left_out - set(tests))
    notes = []
    if tests:
        notes.append(f"{len(tests)} pictures to test with were left out, the first of them {tests[0]}.")
    if others:
        notes.append(
            f"{len(others)} pictures are in neither train nor validation and were left out, the first of them {others[0]}."
        )
    return Splits(chosen, frozenset(left_out), tuple(notes))


class Pictures:
    """The pictures of an archive, to be found by the names that other files give them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            self._by_name[PurePosixPath(path).name].append(path)

    def find(self, name: str, near: str) -> list[str]:
        """Return the pictures that the file `near` may mean by a name: one, none, or several that are as likely."""
        # Tools on Windows write its separators, and some write where the picture once lay.
        name = name.replace("\\", "/")
        found = self._by_name.get(PurePosixPath(name).name, [])
        folder, part = str(PurePosixPath(near).parent), part_of(near)
        for fits in (
            lambda path: f"/{path}".endswith(f"/{name}"),
            lambda path: str(PurePosixPath(path).parent) == folder,
            lambda path: part_of(str(PurePosixPath(path).parent)) == part,
            lambda path: path.startswith(f"{PurePosixPath(folder).parent}/"),
        ):
            if len(found) > 1:
                found = [path for path in found if fits(path)] or found
        return found
