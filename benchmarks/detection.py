"""What searching a detector gains over scaling it: subnets of one supernet against the family's own narrower networks.

Peers are yolo26n and yolo26s as ultralytics describes them, trained alone by the same code and recipe for as many pictures as
the supernet saw. Subnets are chosen on one set of scenes and all are judged on another.
"""

from __future__ import annotations

import copy
import random
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.detection import Detection
from milonga_hub.learning.spaces import Encoding, Space
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.spaces.yolo import Yolo
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.task import runner
from milonga_hub.learning.train import evaluated, subnet
from torch import nn

from benchmarks._digits import trained
from benchmarks._timing import Session, medians_ms
from benchmarks.results import Result
from tests.digits_scenes import write

_SIZE_PX = 64
_TRAIN, _CHOOSE, _JUDGE = 600, 80, 160
_EPOCHS, _BATCH = 20, 16
_SEEDS = (0, 1)
# The largest is as wide as yolo26s; yolo26n is half as wide.
_WIDTH = 0.5
_PEERS = {"yolo26n": 0.5, "yolo26s": 1.0}
_CANDIDATES = 16
# Mosaics need longer trainings: after 20 epochs yolo26n had .148 without and .125 with them.
_AUGMENTATION = {"fliplr": 0.0, "mosaic": 0.0}


@dataclass(frozen=True)
class Duel:
    """One peer and the best subnet that is no slower, of one seed: mAP50-95 and median ms of each."""

    peer: str
    peer_map: float
    peer_ms: float
    own_map: float
    own_ms: float
    own: str


def run() -> list[Result]:
    """Return how much of a perfect mAP is missing and how long a picture takes, subnet against peer."""
    torch.set_num_threads(1)
    duels = [duel for seed in _SEEDS for duel in _duels(seed)]
    results = []
    for peer in _PEERS:
        of_peer = [duel for duel in duels if duel.peer == peer]
        missing = [1 - duel.own_map for duel in of_peer]
        spread = (max(missing) - min(missing)) / statistics.mean(missing)
        judged, timed = statistics.mean(missing), statistics.mean(duel.own_ms for duel in of_peer)
        peer_judged = statistics.mean(1 - duel.peer_map for duel in of_peer)
        peer_timed = statistics.mean(duel.peer_ms for duel in of_peer)
        name = f"{peer}, trained alone"
        results.append(Result("1 - mAP50-95, no slower, mean of seeds", judged, "", name, peer_judged, 1.0, spread))
        results.append(Result("its latency, ONNX Runtime, one thread", timed, "ms", name, peer_timed, 1.05))
    return results


def _duels(seed: int) -> list[Duel]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task = Detection(write(folder / "data", _TRAIN, _CHOOSE, seed, _SIZE_PX), _SIZE_PX, _AUGMENTATION)
        judge = Detection(write(folder / "judge", 2, _JUDGE, seed + 1000, _SIZE_PX), _SIZE_PX)
        space = Yolo(_SIZE_PX, "yolo26", _WIDTH)
        recipe = Recipe("yolo", _SIZE_PX, _EPOCHS, _BATCH, 0.0, seed, random_subnets=1, precision="fp32")
        supernet = trained(space, task, recipe, folder, "the supernet")
        return [_duel(name, ratio, supernet, task, judge, recipe, folder) for name, ratio in _PEERS.items()]


def _duel(
    name: str, ratio: float, supernet: Supernet, task: Detection, judge: Detection, recipe: Recipe, folder: Path
) -> Duel:
    space = supernet.space
    alone = Fixed(space, scaled(space, ratio))
    peer = subnet(trained(alone, task, recipe, folder, name), alone.largest(), task)
    limit_ms = medians_ms([_session(peer, _SIZE_PX, folder)])[0]
    chosen = _chosen(supernet, scaled(space, ratio), task, limit_ms, folder, recipe.seed)
    own, size = subnet(supernet, chosen, task), space.resolution(chosen)
    own_ms, peer_ms = medians_ms([_session(own, size, folder), _session(peer, _SIZE_PX, folder)])
    duel = Duel(
        name,
        judge.evaluate(runner(space.deployed(peer)), _SIZE_PX),
        peer_ms,
        judge.evaluate(runner(space.deployed(own)), size),
        own_ms,
        space.describe(chosen),
    )
    print(
        f"  seed {recipe.seed}, {name}: mAP {duel.peer_map:.3f} in {duel.peer_ms:.2f} ms; searched: {duel.own_map:.3f}"
        f" in {duel.own_ms:.2f} ms, {duel.own}",
        file=sys.stderr,
        flush=True,
    )
    return duel


def scaled(space: Space, ratio: float) -> Encoding:
    """Return the family's own network: its operations and its depth below "l", all widths by one ratio."""
    values: dict[str, Any] = {}
    for one in space.dimensions:
        kind = one.name.split(".")[-1]
        fixed = {"operation": "C3k2", "depth": 1, "attention_depth": 1}
        if kind in fixed:
            values[one.name] = fixed[kind]
        elif kind == "width":
            values[one.name] = min(one.choices, key=lambda choice: abs(float(choice) - ratio))
    return space.encoded(values)


def _chosen(supernet: Supernet, start: Encoding, task: Detection, limit_ms: float, folder: Path, seed: int) -> Encoding:
    """Return the best of some subnets that keep the limit: random ones first, then neighbours of the best."""
    space, source = supernet.space, random.Random(seed)
    known = {start: _judged(supernet, start, task)}
    tried = 0
    while len(known) < _CANDIDATES and tried < 20 * _CANDIDATES:
        tried += 1
        best = max(known, key=lambda one: known[one])
        one = space.sample(source) if len(known) < _CANDIDATES // 2 else space.mutate(best, source, 0.15)
        if one in known:
            continue
        network = supernet.extract(one)
        if medians_ms([_session(network.eval(), space.resolution(one), folder)])[0] <= limit_ms:
            known[one] = _judged(supernet, one, task)
            print(f"\r  searching: {len(known)} of {_CANDIDATES} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return max(known, key=lambda one: known[one])


def _judged(supernet: Supernet, encoding: Encoding, task: Detection) -> float:
    return evaluated(supernet, encoding, task)


def _session(network: nn.Module, size_px: int, folder: Path) -> Session:
    """Return the network as ultralytics exports it, fused and with one head."""
    own: Any = copy.deepcopy(network).eval().fuse(verbose=False)
    own.model[-1].export = True
    path = folder / "timed.onnx"
    torch.onnx.export(own, (torch.zeros(1, 3, size_px, size_px),), str(path), opset_version=17, dynamo=False)
    return Session(path, size_px)
