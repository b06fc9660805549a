"""Devices whose latencies are known exactly: what each option costs in each slot, over what a call costs at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from milonga_hub.learning.latency.process import Floats, Indices

SLOTS, OPTIONS = 8, 4


@dataclass(frozen=True)
class World:
    """Networks (n, 8) of whole numbers, their MACs (n,), and devices {name: (n,) ms}; `target` is the new one."""

    features: Floats
    macs: Floats
    sources: dict[str, Floats]
    families: dict[str, str]
    target: Floats

    def onehot(self) -> Floats:
        return np.concatenate([np.eye(OPTIONS)[column.astype(int)] for column in self.features.T], axis=1)


def world(networks: int = 400, noise: float = 0.02, devices: int = 6, seed: int = 0) -> World:
    """Return a world: devices share what sizes cost and differ by how well they run each operator."""
    random = np.random.default_rng(seed)
    features = random.integers(0, OPTIONS, (networks, SLOTS)).astype(np.float64)
    chosen = features[:, :, None] == np.arange(OPTIONS)
    size = random.uniform(0.5, 2.0, SLOTS)[:, None]
    work = np.array([0.05, 0.4, 1.0, 2.0])

    def latency(skill: Floats) -> Floats:
        clean = 2.0 + (chosen * size * work * skill).sum(axis=(1, 2))
        return np.asarray(random.uniform(0.5, 20.0) * clean * np.exp(random.normal(0.0, noise, networks)))

    drawn = [latency(np.exp(random.normal(0.0, 0.6, OPTIONS))) for _ in range(devices + 1)]
    sources = {f"device{number}": ms for number, ms in enumerate(drawn[1:])}
    families = {name: f"family{number // 2}" for number, name in enumerate(sources)}
    return World(features, (chosen * size * work).sum(axis=(1, 2)) * 1e8, sources, families, drawn[0])


def stages(networks: int = 600, seed: int = 0) -> World:
    """Return a world of two known devices where slots come in stages of three: a device runs all slots of one alike."""
    random = np.random.default_rng(seed)
    features = random.integers(0, OPTIONS, (networks, 12)).astype(np.float64)
    chosen = features[:, :, None] == np.arange(OPTIONS)
    work = np.array([0.05, 0.4, 1.0, 2.0])
    size, stage = random.uniform(0.5, 2.0, 4), np.repeat(np.arange(4), 3)

    def latency(skill: Floats) -> Floats:
        clean = 2.0 + (chosen * (size * skill)[stage][:, None] * work).sum(axis=(1, 2))
        return np.asarray(clean * np.exp(random.normal(0.0, 0.01, networks)))

    drawn = [latency(np.exp(random.normal(0.0, 1.0, 4))) for _ in range(3)]
    macs = (chosen * size[stage][:, None] * work).sum(axis=(1, 2)) * 1e8
    return World(features, macs, {"a": drawn[1], "b": drawn[2]}, {"a": "one", "b": "other"}, drawn[0])


def unmeasured(world: World, index: Indices) -> Indices:
    return np.setdiff1d(np.arange(len(world.target)), index)
