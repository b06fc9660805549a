"""What searching a detector gains over scaling it: subnets of one supernet against the family's own narrower networks.

Peers are yolo26n and yolo26s as ultralytics describes them, trained alone by the same code: two networks, as for two types of
device. Two subnets, each no slower than its peer, come of one supernet, and saw as many pictures in all: the supernet as many as
one peer, once for both, and each of the two half as many again when it was fine-tuned. How good it was before that is told, too.
Subnets are chosen on one set of scenes and all are judged on another.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from milonga_compiler.files import write_atomically
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.detection import Detection
from milonga_hub.learning.evaluation import Evaluated
from milonga_hub.learning.spaces import Encoding, Space
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.spaces.yolo import Yolo
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.task import runner
from milonga_hub.learning.train import subnet

from benchmarks._digits import Stopwatch, checkpoint, searched, session, trained
from benchmarks._parallel import together
from benchmarks._timing import medians_ms
from benchmarks.results import Result
from tests.digits_scenes import write

_SIZE_PX = 64
_TRAIN, _CHOOSE, _JUDGE = 600, 160, 160
# With ten of them, trainings this short find so little (a mAP of .07 to .15) that chance chooses.
_CLASSES = 3
# Of a peer and of the supernet; a searched subnet has half of them on its own.
_EPOCHS, _BATCH = 20, 16
_SEEDS = (0, 1)
# The largest is as wide as yolo26s; yolo26n is half as wide.
_WIDTH = 0.5
_PEERS = {"yolo26n": 0.5, "yolo26s": 1.0}
_MEASURED, _RANDOM, _EVALUATIONS = 16, 12, 28
# Mosaics need longer trainings: after 20 epochs yolo26n had .148 without and .125 with them.
_SUPERNET = "the supernet"
_AUGMENTATION = {"fliplr": 0.0, "mosaic": 0.0}


@dataclass(frozen=True)
class Duel:
    """One peer and the best subnet that is no slower, of one seed: mAP50-95 and median ms of each."""

    seed: int
    peer: str
    peer_map: float
    peer_ms: float
    inherited_map: float
    finetuned_map: float
    own_ms: float
    own: str


def run() -> list[Result]:
    """Return how much of a perfect mAP is missing and how long a picture takes, subnet against peer."""
    duels = [duel for some in together(_duels, _SEEDS, "seed") for duel in some]
    results = []
    for duel in duels:
        print(
            f"  seed {duel.seed}, {duel.peer}: mAP {duel.peer_map:.3f} in {duel.peer_ms:.2f} ms; searched:"
            f" {duel.inherited_map:.3f} inherited, {duel.finetuned_map:.3f} fine-tuned, in {duel.own_ms:.2f} ms, {duel.own}"
        )
    for peer in _PEERS:
        of_peer = [duel for duel in duels if duel.peer == peer]
        timed = statistics.mean(duel.own_ms for duel in of_peer)
        peer_judged = statistics.mean(1 - duel.peer_map for duel in of_peer)
        peer_timed = statistics.mean(duel.peer_ms for duel in of_peer)
        name = f"{peer}, trained alone"
        for how, maps, goal in (
            ("fine-tuned, as many pictures in all", [duel.finetuned_map for duel in of_peer], 1.0),
            ("as inherited, half the pictures", [duel.inherited_map for duel in of_peer], None),
        ):
            missing = [1 - one for one in maps]
            judged, spread = statistics.mean(missing), (max(missing) - min(missing)) / statistics.mean(missing)
            results.append(
                Result(f"1 - mAP50-95, no slower, {how}, mean of seeds", judged, "", name, peer_judged, goal, spread)
            )
        results.append(Result("its latency, ONNX Runtime, one thread", timed, "ms", name, peer_timed, 1.05))
    return results


def _duels(seed: int) -> list[Duel]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task = Detection(write(folder / "data", _TRAIN, _CHOOSE, seed, _SIZE_PX, _CLASSES), _SIZE_PX, _AUGMENTATION)
        judge = Detection(write(folder / "judge", 2, _JUDGE, seed + 1000, _SIZE_PX, _CLASSES), _SIZE_PX)
        space = Yolo(_SIZE_PX, "yolo26", _WIDTH)
        recipe = Recipe("yolo", _SIZE_PX, _EPOCHS, _BATCH, 0.0, seed, random_subnets=1, precision="fp32")
        supernet = trained(space, task, recipe, folder, _SUPERNET)
        return [_duel(name, ratio, supernet, task, judge, recipe, folder) for name, ratio in _PEERS.items()]


def _duel(
    name: str, ratio: float, supernet: Supernet, task: Detection, judge: Detection, recipe: Recipe, folder: Path
) -> Duel:
    space = supernet.space
    alone = Fixed(space, scaled(space, ratio))
    peer = trained(alone, task, recipe, folder, name)
    timed = session(peer, alone.largest(), task, folder)
    chosen = _searched(supernet, task, medians_ms([timed])[0], folder / f"search-{name}", recipe.seed)
    own_ms, peer_ms = medians_ms([session(supernet, chosen, task, folder), timed])
    own = Fixed(space, chosen)
    finetuned = trained(own, task, _half(recipe), folder, f"instead of {name}", checkpoint(folder, _SUPERNET))
    return Duel(
        recipe.seed,
        name,
        _judged(peer, alone.largest(), task, judge),
        peer_ms,
        _judged(supernet, chosen, task, judge),
        _judged(finetuned, own.largest(), task, judge),
        own_ms,
        space.describe(chosen),
    )


def _half(recipe: Recipe) -> Recipe:
    return replace(recipe, epochs=recipe.epochs // 2)


def _judged(supernet: Supernet, encoding: Encoding, task: Detection, judge: Detection) -> float:
    """Return how good a subnet, recalibrated on what it was trained on, is on scenes that chose nothing."""
    network = supernet.space.deployed(subnet(supernet, encoding, task))
    return judge.evaluate(runner(network), supernet.space.resolution(encoding))


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


def _searched(supernet: Supernet, task: Detection, limit_ms: float, folder: Path, seed: int) -> Encoding:
    """Return the most accurate candidate of the search that was measured to keep the limit; the smallest if none does."""
    space, source = supernet.space, random.Random(seed)
    folder.mkdir()
    kept = Evaluated(supernet, task, folder, write_atomically)
    for one in (space.smallest(), space.largest(), *(scaled(space, ratio) for ratio in _PEERS.values())):
        kept.accuracy(one)
    while kept.count() < _RANDOM:
        kept.accuracy(space.sample(source))
    clock = Stopwatch(supernet, task, folder)
    limits = {"latency_ms": limit_ms}
    search = searched(kept, clock.ms, limits, seed, _MEASURED, _EVALUATIONS - kept.count())
    candidates = [tuple(row["encoding"]) for row in search.result()["candidates"]]
    return next((one for one in candidates if clock.ms(one) <= limit_ms), space.smallest())
