"""Build a network for one target, prove it right on real pictures, and bundle it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.bundle import PROBE_EXPECTED, PROBE_INPUT, Bundle, write_bundle
from milonga_compiler.errors import BuildFailed, CannotRunHere, EngineMissing
from milonga_compiler.parity import Comparison, Evidence, Judge, Report
from milonga_compiler.target import Target

PROBE_COUNT = 4

# How far a device's outputs may be from those seen here, as a share of their range. fp32 kernels only add in another
# order (ONNX Runtime and TVM on x86 and ARM stayed within 3e-5), and 1e-3 still tells them from wrong ones. int8 kernels
# differ between processors: those with VNNI or dot products add exactly, older x86 saturates pairs at 16 bits.
_PROBE_TOLERANCE = {"fp32": 1e-3, "int8": 0.1}


class State(str, Enum):
    """How a build ended: BUILT ones have never run, VERIFIED ones ran and hold, REJECTED ones must not be used."""

    BUILT = "BUILT"
    VERIFIED = "VERIFIED"
    REJECTED = "REJECTED"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Built:
    """How a build ended. A rejected one has a reason and no bundle; a built one has a bundle and no report."""

    target: Target
    state: State
    reason: str
    report: Report | None = None
    bundle: Bundle | None = None


@dataclass(frozen=True)
class _Tried:
    """One variant: how it ended, and what its outputs are and come to."""

    built: Built
    comparison: Comparison
    judge: Judge
    # For the first pictures.
    outputs: Floats


def build(
    onnx_path: Path,
    target: Target,
    folder: Path,
    evidence: Evidence,
    calibration: Floats | None,
    manifest: Mapping[str, Any],
    max_lost_points: float,
    threads: int = 1,
) -> Built:
    """Return the first variant of the build that holds against the evidence, bundled in `folder`, or why none does.

    `manifest` gives what only the caller knows: task, project, model_version, subnet, classes, input, expected_ms; the
    evidence's judge what follows from the build's outputs: output, reference. Engine, files and probe are filled in here.
    Scratch files lie beside `folder`, named `.bundle-*`; what the engine printed, if anything, is kept there as
    `<folder>.log`. Raises EngineMissing or UnknownTarget.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _log_beside(folder) as log, tempfile.TemporaryDirectory(dir=str(folder.parent), prefix=".bundle-") as scratch:
        engine = backend(target.engine, log)
        work = Path(scratch)
        rejected = Built(target, State.REJECTED, f"{target.engine} made nothing of the network")
        try:
            with contextlib.closing(engine.build(onnx_path, target, work, calibration)) as variants:
                for variant in variants:
                    tried = _try(engine, variant, target, work, evidence, max_lost_points, threads)
                    if tried.built.state is not State.REJECTED:
                        whole = {**manifest, **tried.judge.entries(), **_entries(engine, target, variant, tried)}
                        sources = {**_probe(work, evidence, tried), **{name: work / name for name in variant.files}}
                        return replace(tried.built, bundle=write_bundle(folder, whole, sources))
                    rejected = _nearer(rejected, tried.built)
        except BuildFailed as error:
            return rejected if rejected.report else Built(target, State.REJECTED, str(error))
        return rejected


@contextlib.contextmanager
def _log_beside(folder: Path) -> Iterator[Path]:
    """Give what the engine prints about the build in `folder` a file, which stays where there was anything."""
    log = folder.parent / f"{folder.name}.log"
    log.unlink(missing_ok=True)
    try:
        yield log
    finally:
        if log.exists() and not log.stat().st_size:
            log.unlink()


def _try(
    engine: Backend,
    variant: BuiltModel,
    target: Target,
    work: Path,
    evidence: Evidence,
    max_lost_points: float,
    threads: int,
) -> _Tried:
    comparison, judge, first = Comparison(evidence.expected), evidence.judge(), evidence.expected[:0]
    try:
        for pictures in evidence.parts():
            outputs = engine.run(work / variant.model_file, pictures, threads)
            comparison.add(outputs)
            if comparison.not_finite:
                break
            judge.add(outputs)
            first = outputs[:PROBE_COUNT] if not len(first) else first
    except CannotRunHere as error:
        return _unseen(target, evidence, str(error))
    except (BuildFailed, EngineMissing):
        raise
    except Exception as error:  # Engines raise what they like; the build is then simply not usable.
        return _Tried(Built(target, State.REJECTED, f"it does not run: {error}"), comparison, judge, first)
    # What is not a number answers nothing.
    accuracy = 0.0 if comparison.not_finite else judge.accuracy()
    report = Report(accuracy, evidence.subnet_accuracy, comparison.max_abs_error, evidence.count)
    reason = comparison.objection(report, target.precision, max_lost_points, judge.measure)
    if reason is not None:
        told = f"{reason} ({variant.note})" if variant.note else reason
        return _Tried(Built(target, State.REJECTED, told, report), comparison, judge, first)
    return _Tried(Built(target, State.VERIFIED, variant.note, report), comparison, judge, first)


def _unseen(target: Target, evidence: Evidence, reason: str) -> _Tried:
    """Return a build that could not be run: the subnet's own outputs stand for its."""
    comparison, judge = Comparison(evidence.expected), evidence.judge()
    comparison.add(evidence.expected)
    judge.add(evidence.expected)
    return _Tried(Built(target, State.BUILT, reason), comparison, judge, evidence.expected[:PROBE_COUNT])


def _nearer(one: Built, other: Built) -> Built:
    """Return the rejected build that came closer to holding: its reason tells people most."""
    if one.report is None:
        return other
    return other if other.report and other.report.accuracy > one.report.accuracy else one


def _probe(work: Path, evidence: Evidence, tried: _Tried) -> dict[str, Path]:
    """Write the pictures and outputs that a device checks itself with before it serves."""
    pictures = next(iter(evidence.parts()))
    np.save(str(work / PROBE_INPUT), pictures[:PROBE_COUNT].astype(np.float32))
    np.save(str(work / PROBE_EXPECTED), tried.outputs[:PROBE_COUNT].astype(np.float32))
    return {name: work / name for name in (PROBE_INPUT, PROBE_EXPECTED)}


def _entries(engine: Backend, target: Target, variant: BuiltModel, tried: _Tried) -> dict[str, Any]:
    span = tried.comparison.high - tried.comparison.low
    share = _PROBE_TOLERANCE.get(target.precision, _PROBE_TOLERANCE["int8"])
    return {
        "engine": target.engine,
        "engine_requirement": engine.requirement,
        "verification": engine.verification,
        "precision": target.precision,
        "model_file": variant.model_file,
        "probe": {
            "input_file": PROBE_INPUT,
            "expected_file": PROBE_EXPECTED,
            # Outputs of a small range are held to the range 1, or rounding alone would fail the probe.
            "max_abs_error": share * max(1.0, span),
        },
    }
