"""What tuning gains TVM by the minute, kernel by kernel, and what a second subnet of the same supernet has of it.

A supernet is trained at 80 px, two of its subnets are drawn by chance, and both are tuned into one folder: the first for 2, 5
and 10 minutes in all, the second for 2. All builds pass the gates of any build. They are timed by the agent's runtime beside ONNX
Runtime with its defaults, on one CPU and one thread, in short blocks in random order. MILONGA_BENCH_EFFORT=0.1 looks whether it works.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime
from milonga_compiler.backends import backend
from milonga_compiler.build import State, build
from milonga_compiler.environments import adding_line, interpreter, usable
from milonga_compiler.target import Target
from milonga_compiler.tuning import Budget, Kernel, Step, Tuning, network_ms
from milonga_hub.builds.evidence_for_job import TaskEvidence
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.export import export
from milonga_hub.learning.spaces import Encoding, Space, space
from milonga_hub.learning.task import runner
from milonga_hub.learning.train import subnet

from benchmarks._digits import trained
from benchmarks._networks import digits
from benchmarks.results import Result, median_and_spread

_SIZE_PX, _PICTURES, _JUDGED, _EPOCHS = 80, 240, 60, 3
_FIRST_MINUTES, _SECOND_MINUTES = (2.0, 5.0, 10.0), 2.0
_TARGET, _MOST_LOST_POINTS = Target.parse("tvm/fp32"), 0.5
_BLOCK, _BLOCKS, _UNTUNED_BLOCKS = 5, 24, 3
# Kernels that are told one by one: together they are most of the network's time.
_TOLD = 8


@dataclass(frozen=True)
class _Subnet:
    """A trained subnet, and its builds by what they are called."""

    title: str
    onnx: Path
    evidence: TaskEvidence
    builds: dict[str, Path]


def run() -> list[Result]:
    """Train, tune and time."""
    if not usable("tvm"):
        raise RuntimeError(f"there is no TVM to tune; run: {adding_line('tvm')}")
    effort = float(os.environ.get("MILONGA_BENCH_EFFORT", "1"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        first, second = _subnets(folder, effort)
        database = folder / "tuned"
        _build(first, "untuned", None)
        spent, steps = 0.0, []
        for minutes in _FIRST_MINUTES:
            steps.append(_tuned(first, database, (minutes - spent) * effort))
            _build(first, f"tuned {minutes:g} minutes", database)
            spent = minutes
        _build(second, "untuned", None)
        _build(second, "with the first one's kernels", database)
        last = _tuned(second, database, _SECOND_MINUTES * effort)
        _build(second, f"and tuned {_SECOND_MINUTES:g} minutes", database)
        return [*_timed(first), *_kernels(first, steps[-1]), *_timed(second), *_shared(second, last)]


def _subnets(folder: Path, effort: float) -> tuple[_Subnet, _Subnet]:
    family = space("resnet", _SIZE_PX)
    pictures = max(40, round(_PICTURES * effort)), max(40, round(_JUDGED * effort))
    task = Classification(load(digits(folder / "digits.npz", *pictures, _SIZE_PX)))
    epochs = max(1, round(_EPOCHS * effort))
    recipe = Recipe("resnet", _SIZE_PX, epochs, 16, 0.2, 0, random_subnets=1, largest_alone_share=0.0)
    supernet = trained(family, task, recipe, folder, "the supernet")
    source, found = random.Random(0), []
    for title in ("first subnet", "second subnet"):
        encoding = _drawn(family, source)
        network, size_px = family.deployed(subnet(supernet, encoding, task)), family.resolution(encoding)
        path, seen = folder / f"{title.replace(' ', '-')}.onnx", task.input(size_px)
        export(network, size_px, path)
        outputs = np.concatenate([runner(network)(part) for part in task.validation(seen)])
        judge = task.judge(seen)
        judge.add(outputs)
        evidence = TaskEvidence(seen, outputs, task, judge.accuracy())
        macs = family.cost(encoding, len(task.names)).macs / 1e6
        print(f"  {title}: {judge.accuracy():.1%}, {macs:.0f} M MACs, {family.describe(encoding)}", file=sys.stderr)
        found.append(_Subnet(title, path, evidence, {}))
    return found[0], found[1]


def _drawn(family: Space, source: random.Random) -> Encoding:
    """Return a subnet drawn by chance at the full resolution: at others, no kernel is the same."""
    full = len(family.dimensions[0].choices) - 1
    return family.canonical((full, *family.sample(source)[1:]))


def _tuned(of: _Subnet, database: Path, minutes: float) -> Step:
    tuning, step = Tuning(database, Budget(seconds=minutes * 60)), None
    for step in backend("tvm", database.with_suffix(".log")).tune(of.onnx, _TARGET, tuning):
        print(f"  {of.title}: {step.words(tuning.budget)}", file=sys.stderr)
    assert step is not None, "a tuning that begins tells of it"
    return step


def _build(of: _Subnet, name: str, database: Path | None) -> None:
    place = of.onnx.parent / f"{of.onnx.stem}-{len(of.builds)}"
    tuning = Tuning(database) if database else None
    built = build(of.onnx, _TARGET, place, of.evidence, None, {}, _MOST_LOST_POINTS, 1, tuning=tuning)
    if built.state is not State.VERIFIED or built.bundle is None:
        raise RuntimeError(f"{of.title}, {name}: {built.state} {built.reason}")
    of.builds[f"{name} ({built.reason})"] = built.bundle.folder / built.bundle.manifest["model_file"]


def _timed(of: _Subnet) -> list[Result]:
    """Return the latency of each build beside ONNX Runtime's on the same file."""
    times = _blocks(of.onnx, list(of.builds.values()))
    peer = float(np.median(times[-1]))
    results = []
    for name, own in zip(of.builds, times[:-1], strict=True):
        median, spread = median_and_spread(own)
        results.append(Result(f"{of.title}, {name}", median, "ms", "ONNX Runtime's default", peer, None, spread))
    return results


def _blocks(onnx: Path, models: Sequence[Path]) -> list[list[float]]:
    """Return times in ms of the models and, last, of ONNX Runtime; the first run of a block pays for what the others left."""
    cpu = min(os.sched_getaffinity(0))
    allowed, root = os.sched_getaffinity(0), Path(__file__).parents[1]
    ours = os.pathsep.join(str(root / name) for name in ("agent", "protos"))
    command = [interpreter("tvm"), str(Path(__file__).parent / "_tvm_clock.py"), str(cpu), *map(str, models)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(onnx), options)
    (given,) = session.get_inputs()
    picture = np.zeros((1, *given.shape[1:]), dtype=np.float32)
    times: list[list[float]] = [[] for _ in (*models, onnx)]
    os.sched_setaffinity(0, [cpu])
    clock = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ours}
    )
    try:
        assert clock.stdin is not None and clock.stdout is not None
        source = random.Random(0)
        for block in range(_BLOCKS):
            for number in source.sample(range(len(times)), len(times)):
                if number == len(models):
                    times[number] += _onnx_block(session, given.name, picture)
                elif number or block < _UNTUNED_BLOCKS:  # The first is untuned, and takes long.
                    clock.stdin.write(f"{number} {_BLOCK}\n")
                    clock.stdin.flush()
                    times[number] += json.loads(clock.stdout.readline())[1:]
    finally:
        os.sched_setaffinity(0, allowed)
        clock.kill()
        clock.wait()
    return times


def _onnx_block(session: onnxruntime.InferenceSession, name: str, picture: np.ndarray) -> list[float]:
    times = []
    for _ in range(_BLOCK):
        began = perf_counter()
        session.run(None, {name: picture})
        times.append((perf_counter() - began) * 1e3)
    return times[1:]


def _kernels(of: _Subnet, step: Step) -> list[Result]:
    """Return what tuning gained of the kernels that took longest, and of all together."""

    def untuned(one: Kernel) -> float:
        return one.count * one.untuned_ms

    told = sorted(step.kernels, key=untuned, reverse=True)[:_TOLD]
    whole = sum(map(untuned, step.kernels))
    tuned = sum(one.tuned for one in step.kernels)
    results = [
        Result(
            f"{of.title}, kernel {one.name}, {one.count} of them, {one.trials} schedules in {one.turns} turns",
            one.network_ms, "ms", f"untuned, {untuned(one) / whole:.0%} of all", untuned(one), None,
        )
        for one in told
    ]  # fmt: skip
    claim = f"{of.title}, {tuned} of {len(step.kernels)} kernels tuned, all together"
    return [*results, Result(claim, network_ms(step.kernels), "ms", "untuned", whole, None)]


def _shared(of: _Subnet, step: Step) -> list[Result]:
    return [
        Result(f"{of.title}, kernels found tuned", step.found, "", "kernels", len(step.kernels), None),
        *_kernels(of, step)[-1:],
    ]
