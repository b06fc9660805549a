"""How a new device may differ from known ones slot by slot: what each slot adds on them, and which slots are alike there.

Latencies add up over the slots of a network. A device that runs small pictures or many channels badly, runs all slots badly
that work on them; which ones those are, known devices tell: on each of them, slots that do the same take the same.
"""

from __future__ import annotations

import numpy as np

from milonga_hub.learning.latency.structure import Floats, Structure, squared_distances

# Slots and values are alike by a Gaussian of how far apart they are, where two that have nothing in common are 1.4 apart.
_LENGTHS = {"slots": 0.6, "values": 0.7}
_JITTER = 1e-6
_SMALLEST = 1e-12


class Slotwise:
    """What each slot of a network adds to latency on known devices, as factors of a kernel (n, ...) for a new one.

    Each has the size of what it adds on known devices, so that a weight of 1 lets a new device differ by as much.
    """

    def __init__(self, structure: Structure, devices: Floats, costs: Floats) -> None:
        """`devices` (n, d), `costs` (n, e) over their means, or logarithms of that; there is at least one device."""
        added = structure.added(devices)
        self._mean = added.mean(axis=2, keepdims=True)
        self._others = [
            (each - self._mean) / np.sqrt(each.shape[2]) for each in (added, structure.added(costs)) if each.shape[2]
        ]
        relative = added / np.sqrt((added**2).mean(axis=(0, 1)) + _SMALLEST)
        self._slots = _roots(relative, _LENGTHS["slots"])
        sized = relative / np.sqrt((relative**2).mean(axis=(1, 2), keepdims=True) + _SMALLEST)
        self._values = _roots(np.swapaxes(sized, 0, 1), _LENGTHS["values"])
        self._chosen = structure.options.reshape(structure.slots.shape)

    def gains(self) -> Floats:
        """Return (n, s): each slot takes more or less than on known devices, whatever it chooses."""
        return self._shared(self._mean)

    def mixes(self) -> Floats:
        """Return (n, s * (d + e)): each slot resembles another device, or another cost."""
        return self._shared(np.concatenate(self._others, axis=2))

    def values(self) -> Floats:
        """Return (n, s * v): each value takes more or less in each slot, as those do that are like it."""
        size = np.sqrt((self._mean**2).mean(axis=(1, 2)))[:, None]
        found = np.einsum("nsv,sa,vb->nab", self._chosen, size * self._slots, self._values, optimize=True)
        return np.asarray(found.reshape(len(found), -1))

    def _shared(self, patterns: Floats) -> Floats:
        """`patterns` (s, v, p): what may be added, in each slot by another weight, in like slots by like ones."""
        found = np.einsum("nsv,svp,sa->nap", self._chosen, patterns, self._slots, optimize=True)
        return np.asarray(found.reshape(len(found), -1))


def _roots(profiles: Floats, length: float) -> Floats:
    """Return a root (m, m) of how alike the rows of `profiles` (m, ...) are, each 1 with itself, whatever their sizes."""
    rows = profiles.reshape(len(profiles), -1)
    rows = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + _SMALLEST)
    alike = np.exp(-squared_distances(rows, rows) / rows.shape[1] / (2 * length**2))
    return np.asarray(np.linalg.cholesky(alike + _JITTER * np.eye(len(rows))))
