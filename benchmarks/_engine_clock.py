"""Builds of one engine, and the default export, timed in a process of their own that imports neither torch nor ultralytics."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from milonga import detections

from benchmarks._found import CLASSES, boxes_of_default

# Long enough for all threads to be awake and lie where they stay; short enough for some ten blocks of each.
_BLOCK, _BLOCK_SECONDS, _LEAST_BLOCKS = 10, 0.2, 8
# Threads of the run before may look for work for some 55 ms after it (ONNX Runtime's do): at rest they take less than this of a look's time.
_LOOK_SECONDS, _AT_REST, _MOST_LOOKS = 0.02, 0.1, 50

Run = Callable[[], object]


@dataclass(frozen=True)
class Timed:
    """One build beside the default export on so many threads: medians in ms.

    `spread` is the interquartile range of the build's repeats, over their median.
    """

    target: str
    ms: float
    default_ms: float
    spread: float

    @property
    def ratio(self) -> float:
        return self.ms / self.default_ms


# What this process has loaded: the default export by "", builds by their targets.
_LOADED: dict[str, Run] = {}


def load(
    engine: str, models: Mapping[str, Path], default: Path, picture: np.ndarray, detects: bool, threads: int
) -> None:
    """Load all that this process times, and stay on as many CPUs as there are threads."""
    from milonga_agent.profile import pinned

    pinned(threads).__enter__()
    _LOADED[""] = _default_run(default, picture, detects, threads)
    for target, model in models.items():
        _LOADED[target] = _own_run(engine, model, picture, detects, threads)


def interleaved(seconds: float) -> list[Timed]:
    """Time all that is loaded, side by side."""
    default, *own = _blocks([*_LOADED.values()], seconds * len(_LOADED))
    return [_figures(target, times, default) for target, times in zip([*_LOADED][1:], own, strict=True)]


def once(target: str, seconds: float) -> float:
    """Return the median of one build in ms, as a device takes it for one of several rounds."""
    end = time.perf_counter() + seconds
    _rest()
    _LOADED[target]()
    times = _block(_LOADED[target])
    while time.perf_counter() < end:
        times += _block(_LOADED[target])
    return median(times)


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
    low, high = np.quantile(own, [0.25, 0.75])
    return Timed(target, median(own), median(default), float((high - low) / median(own)))


def _blocks(runs: Sequence[Run], seconds: float) -> list[list[float]]:
    """Return times in ms, of blocks in random order; each begins at rest, and its first run, which wakes threads and caches, is left out."""
    times: list[list[float]] = [[] for _ in runs]
    source, end = random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < _LEAST_BLOCKS * _BLOCK:
        for index in source.sample(range(len(runs)), len(runs)):
            _rest()
            runs[index]()
            times[index] += _block(runs[index])
    return times


def _block(run: Run) -> list[float]:
    times: list[float] = []
    while len(times) < _BLOCK or sum(times) < _BLOCK_SECONDS * 1e3:
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1e3)
    return times


def _rest() -> None:
    """Wait until no thread of this process works; raise RuntimeError where one never stops."""
    for _ in range(_MOST_LOOKS):
        used = time.process_time()
        time.sleep(_LOOK_SECONDS)
        if time.process_time() - used < _AT_REST * _LOOK_SECONDS:
            return
    raise RuntimeError(
        "threads of an engine go on working after its runs; times would be those of all of them together"
    )
