"""Every engine and precision that can be used here, against what people do today: the default export in ONNX Runtime.

Networks are trained ones at 224 px (classification) and 320 px (detection, its boxes decoded on both sides). An engine's builds
and the default export run in one process on as many CPUs as they get threads, in short blocks in random order. The build is
chosen by the first half of the repeats and judged by the second. MILONGA_BENCH_EFFORT=0.1 looks whether it all works.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from milonga import detections
from milonga_agent.inventory import engine_version
from milonga_compiler.build import Built, State, build
from milonga_compiler.bundle import BESIDE_THE_MODEL
from milonga_compiler.engines import ENGINES, BuildSite
from milonga_compiler.environments import adding_line, usable
from milonga_compiler.target import Target

from benchmarks._networks import CLASSES, KINDS, Subject, alike, boxes_of_default, data, subject
from benchmarks.results import Result

# As projects have it where they say nothing (max_accuracy_loss_points).
_MOST_LOST_POINTS = 0.5
_PICTURES, _JUDGED = 400, 200
_BLOCK, _SECONDS_PER_RUN, _LEAST_BLOCKS = 5, 2.5, 4
_COMPARED = 40
# onnx's evaluator proves others right and is never meant to be fast; TVM's kernels are not tuned, and take minutes here.
_LEFT_OUT = ("reference", "tvm")
# Of one and the same build, two halves of the repeats differ by this much on a machine with other work.
_NOISE = 1.05

Run = Callable[[], object]


@dataclass(frozen=True)
class Timed:
    """One build beside the default export on so many threads: medians in ms of both halves of the repeats.

    `first` and `second` are ratios to the default export in the same half; `spread` is the interquartile range of
    the build's repeats, over their median.
    """

    target: str
    ms: float
    default_ms: float
    first: float
    second: float
    spread: float


def run() -> list[Result]:
    """Train the networks, build them for every target, and time what holds."""
    for name in ENGINES:
        if name not in _LEFT_OUT and (lacking := _lacking(name)):
            print(f"  {name} is left out; to have it: {lacking}", file=sys.stderr)
    effort = float(os.environ.get("MILONGA_BENCH_EFFORT", "1"))
    results = []
    with tempfile.TemporaryDirectory() as place:
        among = data(Path(place), max(40, round(_PICTURES * effort)), max(40, round(_JUDGED * effort)), effort)
        for kind in KINDS:
            began = time.monotonic()
            results += _compared(subject(kind, among, Path(place) / kind.title.replace(" ", "-")), effort)
            print(f"  {kind.title} took {time.monotonic() - began:.0f} s", file=sys.stderr)
    return results


def _compared(of: Subject, effort: float) -> list[Result]:
    """Return figures of every build, and of the one that is chosen."""
    title, judged = of.kind.title, of.evidence.accuracy
    print(f"  {title}: {of.evidence.task.measure} {judged:.3f} on {of.evidence.count} pictures", file=sys.stderr)
    held = {str(built.target): built for built in _built(of)}
    if not held:
        raise RuntimeError(f"no build of {title} holds, not even fp32: the reasons stand above")
    about = {target: _about(of, built) for target, built in held.items()}
    results = []
    for threads in (1, 2):
        timed = [one for engine in _engines(held) for one in _timed(of, held, engine, threads, effort)]
        words = f"{threads} thread{'s' * (threads > 1)}"
        results += [_result(f"{title} {one.target}, {words}; {about[one.target]}", one, None) for one in timed]
        chosen = min(timed, key=lambda one: one.first)
        results.append(_result(f"{title}, chosen build ({chosen.target}), {words}", chosen, of.kind.goal))
        best = min(timed, key=lambda one: one.second)
        claim = f"{title}, chosen build over the best single engine's ({best.target}), {words}"
        results.append(Result(claim, chosen.second, "of the default", "best engine", best.second, _NOISE, None))
    return results


def _built(of: Subject) -> Iterator[Built]:
    """Yield the builds that hold; what does not is told."""
    for target in _targets():
        place = of.onnx.parent / str(target).replace("/", "-")
        built = build(of.onnx, target, place, of.evidence, of.calibration, {}, _MOST_LOST_POINTS, 2)
        if built.state is State.VERIFIED and built.bundle is not None:
            yield built
        else:
            print(f"  {of.kind.title} {target}: {built.state} {built.reason}"[:300], file=sys.stderr)


def _lacking(engine: str) -> str:
    """Return the command that adds what the engine lacks here to build and to run; "" for nothing."""
    if not usable(engine):
        return adding_line(engine)
    return "" if engine_version(engine) else f"pip install 'milonga-agent[{engine}]'"


def _targets() -> Iterator[Target]:
    for name, engine in ENGINES.items():
        if name not in _LEFT_OUT and engine.build_site is BuildSite.HUB and not _lacking(name):
            yield from (Target(name, precision) for precision in engine.precisions)


def _engines(held: Mapping[str, Built]) -> list[str]:
    return list(dict.fromkeys(built.target.engine for built in held.values()))


def _about(of: Subject, built: Built) -> str:
    assert built.bundle is not None and built.report is not None
    outputs = of.evidence.outputs
    error = built.report.max_abs_error / float(outputs.max() - outputs.min())
    size = sum(file.size_bytes for file in built.bundle.files if file.path not in BESIDE_THE_MODEL)
    about = (
        f"error {error:.1e}, {built.report.lost_points:+.1f} points lost, size {size / of.default.stat().st_size:.2f}"
    )
    return f"{about}, {_found_alike(of, built):.0%} of objects found alike" if of.detects else about


def _found_alike(of: Subject, built: Built) -> float:
    """Return the share of objects that the build and the default export both find; which stands first tells nothing."""
    import onnxruntime
    from milonga_compiler.backends import backend

    assert built.bundle is not None
    pictures = next(iter(of.evidence.parts()))[:_COMPARED]
    model = built.bundle.folder / built.bundle.manifest["model_file"]
    outputs = backend(built.target.engine).run(model, pictures, 2)
    session = onnxruntime.InferenceSession(str(of.default))
    name = session.get_inputs()[0].name
    found = [boxes_of_default(session.run(None, {name: picture[None]})[0][0]) for picture in pictures]
    own = [detections.find(output, CLASSES, of.size_px) for output in outputs]
    return float(np.mean([alike(*pair) for pair in zip(own, found, strict=True)]))


def _result(claim: str, one: Timed, goal: float | None) -> Result:
    ms = one.second * one.default_ms
    return Result(claim, ms, "ms", "default export, ONNX Runtime", one.default_ms, goal, one.spread)


def _timed(of: Subject, held: Mapping[str, Built], engine: str, threads: int, effort: float) -> list[Timed]:
    """Time in a process of its own: engines keep threads and settings until they end."""
    models = {}
    for target, built in held.items():
        if built.target.engine == engine and built.bundle is not None:
            models[target] = built.bundle.folder / built.bundle.manifest["model_file"]
    picture = next(iter(of.evidence.parts()))[:1]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        arguments = (engine, models, of.default, picture, of.detects, threads, _SECONDS_PER_RUN * effort)
        return pool.submit(_interleaved, *arguments).result()


def _interleaved(
    engine: str,
    models: Mapping[str, Path],
    default: Path,
    picture: np.ndarray,
    detects: bool,
    threads: int,
    seconds: float,
) -> list[Timed]:
    from milonga_agent.profile import pinned

    with pinned(threads):
        runs = [_default_run(default, picture, detects, threads)]
        runs += [_own_run(engine, model, picture, detects, threads) for model in models.values()]
        default_times, *own = _blocks(runs, seconds * len(runs))
    return [_figures(target, times, default_times) for target, times in zip(models, own, strict=True)]


def _default_run(default: Path, picture: np.ndarray, detects: bool, threads: int) -> Run:
    import onnxruntime

    # All defaults but the threads: it would make as many as the machine has cores, and they spin on those it has.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(default), options)
    given = {session.get_inputs()[0].name: picture}
    if detects:
        return lambda: boxes_of_default(session.run(None, given)[0][0])
    return lambda: session.run(None, given)


def _own_run(engine: str, model: Path, picture: np.ndarray, detects: bool, threads: int) -> Run:
    from milonga_agent.runtimes import load

    runtime, size_px = load(engine, model, threads), picture.shape[-1]
    if detects:
        return lambda: detections.find(runtime.run(picture)[0], CLASSES, size_px)
    return lambda: runtime.run(picture)


def _figures(target: str, own: Sequence[float], default: Sequence[float]) -> Timed:
    half, default_half = len(own) // 2, len(default) // 2
    low, high = np.quantile(own, [0.25, 0.75])
    default_ms = median(default[default_half:])
    return Timed(
        target=target,
        ms=median(own),
        default_ms=default_ms,
        first=median(own[:half]) / median(default[:default_half]),
        second=median(own[half:]) / default_ms,
        spread=float((high - low) / median(own)),
    )


def _blocks(runs: Sequence[Run], seconds: float) -> list[list[float]]:
    """Return times in ms, of blocks in random order; the first run of a block pays for what the other left behind."""
    times: list[list[float]] = [[] for _ in runs]
    source, end = random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < _LEAST_BLOCKS * (_BLOCK - 1):
        for index in source.sample(range(len(runs)), len(runs)):
            for repeat in range(_BLOCK):
                began = time.perf_counter()
                runs[index]()
                if repeat:
                    times[index].append((time.perf_counter() - began) * 1e3)
    return times
