"""Which pictures look alike though they are not the same file: shots of one moment, copies in another size or quality. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Greys of a look, side by side.
SIDE = 16
# Looks whose greys differ by less on average (of 255) are of one picture: JPEG at quality 30 differs by 1 to 2.
_MOST_DIFFERENT = 4.0
# A picture of fewer greys than this is a plain surface, which is like all others.
_LEAST_CONTRAST = 6.0
# Bits of the difference hash; two that differ in at most three of them share one of four parts.
_PARTS, _PART_BITS = 4, 16


@dataclass(frozen=True)
class Look:
    """What is compared of a picture: its greys (SIDE * SIDE,), and a hash of how neighbours differ."""

    greys: NDArray[np.uint8]
    hash: int


def look_of(image: Image.Image) -> Look:
    """Return the look of a picture; a JPEG is decoded no finer than needed."""
    image.draft("L", (4 * SIDE, 4 * SIDE))
    grey = image.convert("L")
    greys = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.uint8).reshape(-1)
    rows = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (rows[:, 1:] > rows[:, :-1]).reshape(-1)
    return Look(greys, int("".join("1" if bit else "0" for bit in bits), 2))


def groups_of(looks: Sequence[Look]) -> list[tuple[int, ...]]:
    """Return which looks are alike, by their places: groups of two or more, those with most pictures first."""
    parent = list(range(len(looks)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    telling = [place for place, look in enumerate(looks) if float(look.greys.std()) >= _LEAST_CONTRAST]
    for part in range(_PARTS):
        shared: defaultdict[int, list[int]] = defaultdict(list)
        for place in telling:
            shared[looks[place].hash >> (part * _PART_BITS) & 0xFFFF].append(place)
        for places in shared.values():
            for first, second in _near(looks, places):
                parent[root(second)] = root(first)
    found: defaultdict[int, list[int]] = defaultdict(list)
    for place in telling:
        found[root(place)].append(place)
    return sorted((tuple(each) for each in found.values() if len(each) > 1), key=lambda each: (-len(each), each))


def _near(looks: Sequence[Look], places: Sequence[int]) -> list[tuple[int, int]]:
    """Return pairs whose greys are near; each look is held against the one after it in order of brightness, and a few more."""
    greys = np.stack([looks[place].greys for place in places]).astype(np.float32)
    order = np.argsort(greys.mean(axis=1), kind="stable")
    ordered = greys[order]
    pairs = []
    # Near greys have near means, so only neighbours in that order need be compared; many of one mean are alike anyway.
    for step in range(1, min(len(places), 32)):
        differ = np.abs(ordered[step:] - ordered[:-step]).mean(axis=1)
        pairs += [
            (places[order[at]], places[order[at + step]]) for at in np.flatnonzero(differ < _MOST_DIFFERENT).tolist()
        ]
    return pairs
