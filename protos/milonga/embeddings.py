"""What the last layer but one of a network makes of pictures, counted in cells, so that no picture's embedding leaves a device.

An embedding here is a random projection of that layer's features to a few dimensions, which a build gives out beside its answers. Cells
are fitted to validation pictures: each has a centre, and a part near it and one far from it. Counts of them add up over windows and
devices, and are held against the validation pictures' as any other histogram is.

Needs numpy: `pip install milonga-protos[pictures]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# How the counts are called among the histograms of a window, and in the reference of a manifest.
EMBEDDING = "embedding"
# Fewer than so many pictures to a cell, or in all, say too little of where it lies.
_LEAST_OF_CELL, _LEAST = 12, 48
_MOST_CELLS = 12
# More of them change centres and radii by less than chance does.
_MOST_FITTED = 1024
_ROUNDS = 25
# Of the pictures that a cell was fitted to, so large a share are near.
_NEAR_SHARE = 0.9
# Of manifests: enough for cells, and the same on every processor that computes them.
_DECIMALS = 4


@dataclass(frozen=True, eq=False)
class Cells:
    """Where cells lie: centres (k, d) and radii (k,) of embeddings (n, d), freed of their mean (d,) and spread (d,)."""

    mean: Floats
    spread: Floats
    centres: Floats
    radii: Floats

    @property
    def count(self) -> int:
        """Return how many parts of cells there are: those that are near, then those that are far."""
        return 2 * len(self.centres)

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Cells:
        """Return the cells of a manifest. Raises KeyError, TypeError or ValueError for what is none."""
        found = cls(*(np.asarray(described[name], np.float32) for name in ("mean", "spread", "centres", "radii")))
        k, d = found.centres.shape
        finite = all(np.isfinite(one).all() for one in vars(found).values())
        if found.mean.shape != (d,) or found.spread.shape != (d,) or found.radii.shape != (k,) or not k or not finite:
            raise ValueError("the cells of embeddings do not belong together")
        return found

    def described(self) -> dict[str, Any]:
        """Return what `of` reads, as JSON."""
        return {name: np.round(one.astype(np.float64), _DECIMALS).tolist() for name, one in vars(self).items()}

    def places(self, embeddings: Floats) -> list[int]:
        """Return the part of a cell, from 0 to `count` - 1, that each embedding (n, d) lies in; those that are not finite are left out."""
        found = np.asarray(embeddings, np.float32)
        if found.ndim != 2 or found.shape[1:] != self.mean.shape:
            return []
        centred = (found[np.isfinite(found).all(axis=1)] - self.mean) / self.spread
        away = _distances(centred, self.centres)
        nearest = away.argmin(axis=1)
        far = away[np.arange(len(away)), nearest] > self.radii[nearest]
        return [int(place) for place in nearest + far * len(self.centres)]

    def counts(self, embeddings: Floats) -> list[int]:
        """Return how many of the embeddings (n, d) lie in each part."""
        return [int(count) for count in np.bincount(self.places(embeddings), minlength=self.count)]


def fitted(embeddings: Floats) -> tuple[Cells, list[int]] | None:
    """Return cells for the embeddings (n, d) of validation pictures, and how many lie in each part; None where there are too few.

    Cells are fitted to every other picture and the rest is counted: a cell that was fitted to a picture lies nearer to it than to another.
    The same embeddings give the same cells.
    """
    usable = embeddings[np.isfinite(embeddings).all(axis=1)]
    half = usable[::2]
    chosen = half[:: -(-len(half) // _MOST_FITTED)] if len(half) else half
    if len(chosen) < _LEAST:
        return None
    mean, spread = chosen.mean(axis=0), chosen.std(axis=0)
    if not spread.max() > 0:
        return None
    # What never changes tells nothing: it is divided by what the others are like.
    spread = np.where(spread > 1e-3 * spread.max(), spread, spread.max())
    centred = (chosen - mean) / spread
    centres, nearest, away = _clustered(centred, min(_MOST_CELLS, len(chosen) // _LEAST_OF_CELL))
    radii = np.array([np.quantile(away[nearest == cell], _NEAR_SHARE) for cell in range(len(centres))])
    # As a device reads them.
    cells = Cells.of(Cells(mean, spread, centres, radii).described())
    return cells, cells.counts(usable[1::2])


def described(parts: Sequence[Floats]) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return what a manifest says of cells for these embeddings of validation pictures, and what its reference does; nothing of too few."""
    found = fitted(np.concatenate(parts)) if parts else None
    return ({}, {}) if found is None else ({EMBEDDING: found[0].described()}, {EMBEDDING: found[1]})


def _clustered(points: Floats, count: int) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Return centres (k, d), those with most points first, and of each point (n, d) the nearest and how far away that is.

    Lloyd's algorithm from points that were chosen by k-means++ (Arthur and Vassilvitskii 2007); cells that end empty are left out.
    """
    random = np.random.default_rng(0)
    centres = points[[int(random.integers(len(points)))]]
    while len(centres) < count:
        squares = (_distances(points, centres) ** 2).min(axis=1).astype(np.float64)
        if not squares.sum() > 0:
            break
        centres = np.vstack([centres, points[random.choice(len(points), p=squares / squares.sum())]])
    for _ in range(_ROUNDS):
        nearest = _distances(points, centres).argmin(axis=1)
        centres = np.stack([points[nearest == cell].mean(axis=0) for cell in np.unique(nearest)])
    sizes = np.bincount(_distances(points, centres).argmin(axis=1), minlength=len(centres))
    order = [cell for cell in np.argsort(-sizes, kind="stable") if sizes[cell] > 0]
    centres = centres[order]
    away = _distances(points, centres)
    return centres, away.argmin(axis=1), away.min(axis=1)


def _distances(points: Floats, centres: Floats) -> Floats:
    return np.asarray(np.sqrt(((points[:, None, :] - centres) ** 2).sum(axis=2)), dtype=np.float32)
