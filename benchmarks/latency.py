"""How well latencies of a new device are predicted from 10 and 20 measurements, on public tables of real devices.

Protocol A: published sources, targets and networks, the middle 80 % of them by latency. B: all 27 devices of
NAS-Bench-201, each predicted from those of other families, no network left out. C: sources that do not resemble the target.
Cells of NAS-Bench-201 without a path from input to output are left out, but for "A whole". What sources measured on test
networks is hidden in all.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from milonga_hub.learning.latency.evaluate import (
    MixPeer,
    Networks,
    Score,
    Split,
    agreement,
    gain_on_macs,
    others,
    trials,
)
from milonga_hub.learning.latency.process import Floats, Indices
from rich.console import Console
from rich.progress import track

from benchmarks.results import Result

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_KS = (10, 20)
_SEEDS = 10
_PHONES = ("pixel2", "pixel3", "samsung_a50", "samsung_s7", "essential_ph_1")
_SOURCES = {
    "nb201": ("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "silver_4210r", *_PHONES[1:]),
    "fbnet": ("1080ti_1", "1080ti_32", "1080ti_64", "silver_4114", "silver_4210r", *_PHONES[1:]),
}
_TARGETS = {
    "nb201": ("titan_rtx_256", "gold_6226", "fpga", "pixel2", "raspi4", "eyeriss"),
    "fbnet": ("fpga", "raspi4", "eyeriss"),
}
_TRAIN = {"nb201": 900, "fbnet": 4000}
_TEST = 1000
# The best published or reached before: Spearman, share within 10 %.
_TO_BEAT = {
    ("nb201", "A", 10): (0.937, 0.789),
    ("nb201", "A", 20): (0.950, 0.826),
    ("nb201", "A whole", 10): (0.937, 0.789),
    ("nb201", "A whole", 20): (0.950, 0.826),
    ("fbnet", "A", 10): (0.943, 0.955),
    ("fbnet", "A", 20): (0.962, 0.980),
    ("nb201", "B", 10): (0.967, 0.812),
    ("nb201", "B", 20): (0.971, 0.843),
}
# FBNet, figure 2 and table 1 of Wu et al. 2019: channels and strides of its 22 layers.
_CHANNELS = (16, *(24,) * 4, *(32,) * 4, *(64,) * 4, *(112,) * 4, *(184,) * 4, 352)
_STRIDED = (1, 5, 9, 17)


@dataclass
class _Group:
    """All that was scored on one protocol, space and K."""

    ours: dict[str, list[Score]] = field(default_factory=dict)
    mix: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    macs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def run() -> list[Result]:
    """Return all claims; none, saying so, where the tables are absent."""
    if not DATA.is_dir():
        print(f"left out: there are no latency tables in {DATA}", file=sys.stderr)
        return []
    tasks = [(space, networks, *one) for space, networks in _spaces() for one in _splits(space, networks)]
    groups: dict[tuple[str, str, int], _Group] = {}
    for space, networks, protocol, split in track(tasks, "devices", console=Console(stderr=True)):
        _score(groups, space, networks, protocol, split)
    return [result for key, group in groups.items() for result in _claims(key, group)]


def _score(
    groups: dict[tuple[str, str, int], _Group], space: str, networks: Networks, protocol: str, split: Split
) -> None:
    mix, wanted = MixPeer(networks, split), networks.latency_ms[split.target]
    assert networks.macs is not None
    for number, (k, score) in enumerate(trials(networks, split, _KS, range(_SEEDS))):
        seed = number % _SEEDS
        group = groups.setdefault((space, protocol, k), _Group())
        group.ours.setdefault(split.target, []).append(score)
        group.mix.setdefault(split.target, []).append(mix.agreement(k, seed))
        index = np.random.default_rng(seed).choice(split.train, k, replace=False)
        gained = gain_on_macs(networks.macs, index, wanted[index])
        group.macs.setdefault(split.target, []).append(agreement(gained[split.test], wanted[split.test]))


def _claims(key: tuple[str, str, int], group: _Group) -> Iterator[Result]:
    """Yield errors, so that less is better: 1 - Spearman, and the share that is off by more than 10 %."""
    space, protocol, k = key
    name = f"{space} {protocol} K={k}"
    names = ("1 - Spearman", "off by > 10 %")
    ours = {device: _means([(one.spearman, one.within) for one in scores]) for device, scores in group.ours.items()}
    mix = {device: _means(scores) for device, scores in group.mix.items()}
    macs = {device: _means(scores) for device, scores in group.macs.items()}
    for position, what in enumerate(names):
        averages = [_over(one, position) for one in (ours, mix, macs)]
        for peer, value in (("mix of sources", averages[1]), ("MACs with a gain", averages[2])):
            yield Result(f"{name}: {what}", averages[0], "", peer, value, 1.0)
        if key in _TO_BEAT:
            yield Result(
                f"{name}: {what}", averages[0], "", "figure to beat", round(1 - _TO_BEAT[key][position], 4), 1.0
            )
        for device in ours:
            better = min(1 - mix[device][position], 1 - macs[device][position])
            value = 1 - ours[device][position]
            yield Result(f"  {name} {device}: {what}", value, "", "better of both peers", better, None)
    scores = [score for each in group.ours.values() for score in each]
    coverage = statistics.mean(score.coverage for score in scores)
    yield Result(f"{name}: share in the 80 % interval", coverage, "", "80 %", 0.8, None)
    yield Result(f"{name}: choose and fit", statistics.mean(score.seconds for score in scores), "s", "2 s", 2.0, 1.0)


def _means(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.mean(one[0] for one in scores), statistics.mean(one[1] for one in scores)


def _over(devices: dict[str, tuple[float, float]], position: int) -> float:
    return 1.0 - statistics.mean(each[position] for each in devices.values())


def _spaces() -> Iterator[tuple[str, Networks]]:
    for space, costs in (("nb201", None), ("fbnet", _fbnet_costs)):
        table = np.load(DATA / f"{space}.npz", allow_pickle=False)
        rows = np.arange(_TRAIN[space] + _TEST)
        choices = table["archs"].astype(np.float64)[rows]
        features, macs = choices, None if costs else table["macs_m"].astype(np.float64)[rows]
        if costs is not None:
            found = costs(table["archs"][rows], [str(name) for name in table["ops"]])
            features, macs = np.c_[choices, found[:, 1:]], found[:, 0]
        latency = {
            str(name): ms[rows].astype(np.float64)
            for name, ms in zip(table["devices"], table["latency_ms"], strict=True)
        }
        families = {name: _family(name) for name in latency}
        yield space, Networks(features, latency, macs, families)


def _family(device: str) -> str:
    if device.startswith(("1080", "2080", "titan")):
        return "gpu"
    if device.startswith(("gold", "silver")):
        return "xeon"
    return "phone" if device in _PHONES else device


def _splits(space: str, networks: Networks) -> Iterator[tuple[str, Split]]:
    rows = np.arange(len(networks.features))
    if space == "nb201":
        yield from _published("A whole", space, networks, rows)
        rows = rows[np.load(DATA / "nb201.npz")["live_counts"][rows, 0] > 0]
    yield from _published("A", space, networks, rows)
    train, test = rows[rows < _TRAIN[space]], rows[rows >= _TRAIN[space]]
    for target in networks.latency_ms if space == "nb201" else ():
        yield "B", Split(target, others(networks, target), train, test)
    gpus = [one for one in networks.latency_ms if networks.family(one) == "gpu"]
    for target in gpus:
        yield "C phones -> GPUs", Split(target, _PHONES, train, test)
    for target in _PHONES:
        yield "C GPUs -> phones", Split(target, gpus, train, test)
        yield "C phones -> phone", Split(target, [one for one in _PHONES if one != target], train, test)


def _published(name: str, space: str, networks: Networks, rows: Indices) -> Iterator[tuple[str, Split]]:
    train, test = rows[rows < _TRAIN[space]], rows[rows >= _TRAIN[space]]
    for target in _TARGETS[space]:
        ms = networks.latency_ms[target][test]
        low, high = np.quantile(ms, (0.1, 0.9))
        yield name, Split(target, _SOURCES[space], train, test[(ms >= low) & (ms <= high)])


def _fbnet_costs(archs: Floats, operators: Sequence[str]) -> Floats:
    """Return MACs, activations and weights (n, 3) in millions, for pictures of 224 x 224; an inverted bottleneck a layer."""
    # Stem (3 to 16 channels, 3 x 3, stride 2) and head (352 to 1,984 channels, 1,000 classes).
    total = np.tile(
        [432 * 112**2 + 352 * 1984 * 49 + 1984e3, 16 * 112**2 + 1984 * 49, 432 + 352 * 1984 + 1984e3], (len(archs), 1)
    )
    channels, side = 16, 112
    for layer, out in enumerate(_CHANNELS):
        cost = _skip if (layer in _STRIDED or channels != out) else _nothing
        made = side // 2 if layer in _STRIDED else side
        table = [
            _block(name, channels, out, side, made) if name != "skip" else cost(channels, out, made)
            for name in operators
        ]
        total += np.array(table)[archs[:, layer].astype(int)]
        channels, side = out, made
    return np.asarray(total / 1e6)


_Cost = tuple[float, float, float]


def _nothing(channels: int, out: int, made: int) -> _Cost:
    return 0.0, 0.0, 0.0


def _skip(channels: int, out: int, made: int) -> _Cost:
    """A skip where shapes differ is a 1 x 1 convolution."""
    return float(channels * out * made**2), float(out * made**2), float(channels * out)


def _block(name: str, channels: int, out: int, side: int, made: int) -> _Cost:
    """`name` is k3_e6 or k5_e1_g2: kernel, expansion and groups."""
    parts = {part[0]: int(part[1:]) for part in name.split("_")}
    wide, groups = channels * parts["e"], parts.get("g", 1)
    first, deep, last = channels * wide / groups, wide * parts["k"] ** 2, wide * out / groups
    macs = first * side**2 + (deep + last) * made**2
    return macs, float(wide * side**2 + (wide + out) * made**2), first + deep + last
