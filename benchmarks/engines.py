"""Every engine and precision that can be used here, against what people do today: the default export in ONNX Runtime.

Networks are trained ones at 224 px (classification) and 320 px (detection, its boxes decoded on both sides). An engine's builds
and the default export run in one process on as many CPUs as they get threads, in short blocks in random order. The build is
chosen as runs choose it, in rounds of all engines' builds that are close, and judged by those blocks. Figures are told and kept as each part ends, and a run that was
interrupted is gone on with by the next of the same commit. Networks are trained once and kept, in .bench or the folder that
MILONGA_BENCH_KEEP names. MILONGA_BENCH_EFFORT=0.1 looks whether it all works.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from milonga import detections
from milonga_agent.inventory import engine_version
from milonga_compiler.build import Built, State, build
from milonga_compiler.bundle import BESIDE_THE_MODEL
from milonga_compiler.engines import ENGINES, BuildSite
from milonga_compiler.environments import adding_line, usable
from milonga_compiler.target import Target
from milonga_hub.devices.rules_comparing import next_round, standing
from milonga_hub.devices.values import MeasuringPolicy

from benchmarks import _engine_clock as clock
from benchmarks._engine_clock import Timed
from benchmarks._engines_kept import Kept
from benchmarks._found import CLASSES, alike, boxes_of_default
from benchmarks._networks import KINDS, Data, Kind, Subject, data, subject
from benchmarks.results import Result, keep

# As projects have it where they say nothing (max_accuracy_loss_points).
_MOST_LOST_POINTS = 0.5
_PICTURES, _JUDGED = 400, 200
_SECONDS_PER_RUN = 2.5
# As devices have it: a first round, brief ones after it, and no more than a budget of all of them.
_POLICY = MeasuringPolicy()
_MOST_THREADS = 2
# Builds at a time: most of each is done by one thread of a converter or of a calibration. Nothing is timed meanwhile.
_AT_ONCE = 2
_COMPARED = 40
# onnx's evaluator proves others right and is never meant to be fast; TVM's kernels are not tuned, and take minutes here.
_LEFT_OUT = ("reference", "tvm")
_KEPT = Path(__file__).parents[1] / ".bench"
# Of one and the same build, two halves of the repeats differ by this much on a machine with other work.
_NOISE = 1.05


def run() -> list[Result]:
    """Train the networks, build them for every target, and time what holds."""
    for name in ENGINES:
        if name not in _LEFT_OUT and (lacking := _lacking(name)):
            print(f"  {name} is left out; to have it: {lacking}", file=sys.stderr)
    effort = float(os.environ.get("MILONGA_BENCH_EFFORT", "1"))
    place = Path(os.environ.get("MILONGA_BENCH_KEEP", _KEPT)) / f"engines-{effort:g}"
    place.mkdir(parents=True, exist_ok=True)
    among, kept = data(place, max(40, round(_PICTURES * effort)), max(40, round(_JUDGED * effort)), effort), Kept(place)
    results: list[Result] = []
    for number, kind in enumerate(KINDS, 1):
        with _told(f"{kind.title} ({number} of {len(KINDS)}), all of it"):
            for one in _compared(kind, among, place, kept, effort):
                results += one
                keep("engines", results)
    kept.end()
    return results


@contextlib.contextmanager
def _told(part: str) -> Iterator[None]:
    """Tell how long the part took when it ends: the time of all CPUs too, which other work on the machine hardly changes."""
    began, cpu_before = time.monotonic(), _cpu_seconds()
    yield
    took, cpu_took = time.monotonic() - began, _cpu_seconds() - cpu_before
    print(f"  {part}: {took:.0f} s, {cpu_took:.0f} s of CPU time", file=sys.stderr)


def _cpu_seconds() -> float:
    """Return what this process and those that it waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _compared(kind: Kind, among: Data, place: Path, kept: Kept, effort: float) -> Iterator[list[Result]]:
    """Yield figures of every build, and of the one that is chosen, for each number of threads; those of an earlier run as they are."""
    parts = {threads: f"{kind.title}, {threads} thread{'s' * (threads > 1)}" for threads in _threads()}
    lacking = [threads for threads, part in parts.items() if kept.results(part) is None]
    if lacking:
        with _told(f"{kind.title}, training and both exports"):
            of = subject(kind, among, place)
        judged = of.evidence.accuracy
        print(
            f"  {kind.title}: {of.evidence.task.measure} {judged:.3f} on {of.evidence.count} pictures", file=sys.stderr
        )
        held = _held(of, kept)
    for threads, part in parts.items():
        found = kept.results(part)
        if found is None:
            with _told(f"{part}, timing"):
                found = _figures(of, held, threads, effort)
            kept.keep_results(part, found)
        for one in found:
            print(f"  {one.claim}: {one.value:.4g} {one.unit}, {one.ratio or 0:.3f} of {one.peer}", file=sys.stderr)
        yield found


def _held(of: Subject, kept: Kept) -> dict[str, dict[str, str]]:
    """Return the builds that hold, by target: where the "model" lies, and what there is to say "about" it."""
    title = of.kind.title
    held = kept.builds(title)
    if held is None:
        with _told(f"{title}, all builds"):
            held = {
                str(built.target): {"model": str(_model(built)), "about": _about(of, built)} for built in _built(of)
            }
        if not held:
            raise RuntimeError(f"no build of {title} holds, not even fp32: the reasons stand above")
        kept.keep_builds(title, held)
    return held


def _figures(of: Subject, held: Mapping[str, Mapping[str, str]], threads: int, effort: float) -> list[Result]:
    title, words = of.kind.title, f"{threads} thread{'s' * (threads > 1)}"
    with contextlib.ExitStack() as stack:
        pools = {
            engine: stack.enter_context(_loaded(of, held, engine, threads))
            for engine in dict.fromkeys(map(_engine, held))
        }
        fastest = _fastest(pools, [*held], effort)
        timed = [
            one for pool in pools.values() for one in pool.submit(clock.interleaved, _SECONDS_PER_RUN * effort).result()
        ]
    found = [_result(f"{title} {one.target}, {words}; {held[one.target]['about']}", one, None) for one in timed]
    chosen = next(one for one in timed if one.target == fastest)
    found.append(_result(f"{title}, chosen build ({chosen.target}), {words}", chosen, of.kind.goal))
    best = min(timed, key=lambda one: one.ratio)
    claim = f"{title}, chosen build over the best single engine's ({best.target}), {words}"
    return [*found, Result(claim, chosen.ratio, "of the default", "best engine", best.ratio, _NOISE, None)]


def _fastest(pools: Mapping[str, ProcessPoolExecutor], targets: Sequence[str], effort: float) -> str:
    """Return the target that rounds of all that are close find to be the fastest."""
    source, began = random.Random(0), time.monotonic()
    rounds: list[dict[str, float]] = []
    going: Sequence[str] = targets
    while going and time.monotonic() - began < _POLICY.comparing_seconds * effort:
        seconds = (_POLICY.brief() if rounds else _POLICY).budget_seconds * effort
        order = source.sample(going, len(going))
        rounds.append({target: pools[_engine(target)].submit(clock.once, target, seconds).result() for target in order})
        going = next_round(rounds)
    now = standing(rounds)
    print(
        f"  {now.fastest} is chosen after {len(rounds)} rounds{', and may not be the fastest' * bool(going)}",
        file=sys.stderr,
    )
    return now.fastest


def _threads() -> list[int]:
    """Return how many threads are timed: on fewer processors than threads, those that spin wait for each other."""
    processors = len(os.sched_getaffinity(0))
    if processors < _MOST_THREADS:
        print(f"  {_MOST_THREADS} threads are left out: there are {processors} processors to run on", file=sys.stderr)
    return [threads for threads in range(1, _MOST_THREADS + 1) if threads <= processors]


def _built(of: Subject) -> Iterator[Built]:
    """Yield the builds that hold, in the order of their targets; what does not is told."""

    def made(target: Target) -> tuple[Built, float]:
        began, place = time.monotonic(), of.onnx.parent / str(target).replace("/", "-")
        built = build(of.onnx, target, place, of.evidence, of.calibration, {}, _MOST_LOST_POINTS, 2)
        return built, time.monotonic() - began

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for built, seconds in pool.map(made, _targets()):
            words = f"  {of.kind.title} {built.target}: {built.state} in {seconds:.0f} s"
            print(f"{words}{built.reason and f'; {built.reason}'}"[:300], file=sys.stderr)
            if built.state is State.VERIFIED and built.bundle is not None:
                yield built


def _lacking(engine: str) -> str:
    """Return the command that adds what the engine lacks here to build and to run; "" for nothing."""
    if not usable(engine):
        return adding_line(engine)
    return "" if engine_version(engine) else f"pip install 'milonga-agent[{engine}]'"


def _targets() -> Iterator[Target]:
    for name, engine in ENGINES.items():
        if name not in _LEFT_OUT and engine.build_site is BuildSite.HUB and not _lacking(name):
            yield from (Target(name, precision) for precision in engine.precisions)


def _model(built: Built) -> Path:
    assert built.bundle is not None
    return built.bundle.folder / str(built.bundle.manifest["model_file"])


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

    pictures = next(iter(of.evidence.parts()))[:_COMPARED]
    outputs = backend(built.target.engine).run(_model(built), pictures, 2)
    session = onnxruntime.InferenceSession(str(of.default))
    name = session.get_inputs()[0].name
    found = [boxes_of_default(session.run(None, {name: picture[None]})[0][0]) for picture in pictures]
    own = [detections.find(output, CLASSES, of.size_px) for output in outputs]
    return float(np.mean([alike(*pair) for pair in zip(own, found, strict=True)]))


def _result(claim: str, one: Timed, goal: float | None) -> Result:
    return Result(claim, one.ms, "ms", "default export, ONNX Runtime", one.default_ms, goal, one.spread)


def _engine(target: str) -> str:
    return target.partition("/")[0]


def _loaded(of: Subject, held: Mapping[str, Mapping[str, str]], engine: str, threads: int) -> ProcessPoolExecutor:
    """Return a process that has the engine's builds and the default export: engines keep threads and settings until they end."""
    models = {target: Path(one["model"]) for target, one in held.items() if _engine(target) == engine}
    picture = next(iter(of.evidence.parts()))[:1]
    arguments = (engine, models, of.default, picture, of.detects, threads)
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=clock.load, initargs=arguments)
