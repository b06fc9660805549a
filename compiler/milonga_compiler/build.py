"""Build a network for one target, prove it right on real pictures, and bundle it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.bundle import PROBE_EXPECTED, PROBE_INPUT, Bundle, write_bundle
from milonga_compiler.decisions import agreement, chosen, decisions
from milonga_compiler.engines import ENGINES
from milonga_compiler.errors import BuildFailed, CannotRunHere, CompilerError, EngineMissing, is_full
from milonga_compiler.parity import Comparison, Evidence, Report
from milonga_compiler.target import Target
from milonga_compiler.tuning import Budget, Step, Tuning

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
    """How a build ended. A rejected one has a reason, and a bundle only where that was asked for and it ran; a built one has a
    bundle and no report.
    """

    target: Target
    state: State
    reason: str
    report: Report | None = None
    bundle: Bundle | None = None


@dataclass(frozen=True)
class _Tried:
    """One variant: how it ended, and what its outputs are and come to."""

    variant: BuiltModel
    built: Built
    comparison: Comparison
    # What follows from its outputs for the manifest; nothing where they are not finite numbers.
    entries: Mapping[str, Any]
    # For the first pictures.
    outputs: Floats

    @property
    def ran(self) -> bool:
        """Return whether it answered all pictures with numbers."""
        return self.built.report is not None and not self.comparison.not_finite


@dataclass(frozen=True)
class _Proof:
    """What all variants of a build are held against, and how."""

    evidence: Evidence
    manifest: Mapping[str, Any]
    max_lost_points: float
    threads: int

    def decided_on(self, start: int, count: int) -> NDArray[np.int64]:
        """Return which of the next `count` pictures, of which `start` were before them, decisions are compared on."""
        numbers = chosen(len(self.evidence.expected))
        return numbers[(numbers >= start) & (numbers < start + count)] - start

    def agreement(self, outputs: Sequence[Floats], entries: Mapping[str, Any]) -> float | None:
        """Return the share of what the subnet decides on those pictures that a build's outputs on them come to too.

        None where that is too little to tell, or nobody said what the classes are.
        """
        if "classes" not in self.manifest:
            return None
        manifest = {**self.manifest, **entries}
        wanted = decisions(self.evidence.expected[chosen(len(self.evidence.expected))], manifest)
        return None if wanted is None else agreement(wanted, np.concatenate(outputs), manifest)


def build(
    onnx_path: Path,
    target: Target,
    folder: Path,
    evidence: Evidence,
    calibration: Floats | None,
    manifest: Mapping[str, Any],
    max_lost_points: float,
    threads: int = 1,
    tell: Callable[[str], None] = lambda words: None,
    keep_rejected: bool = False,
    tuning: Tuning | None = None,
    on_tuned: Callable[[Step], None] = lambda step: None,
) -> Built:
    """Return the first variant of the build that holds against the evidence, bundled in `folder`, or why none does.

    `manifest` gives what only the caller knows: task, project, model_version, subnet, classes, input, expected_ms; the
    evidence's judge what follows from the build's outputs: output, reference. Engine, files and probe are filled in here.
    Each step is told in words. Scratch files lie beside `folder`, named `.bundle-*`; the steps and what the engine printed are
    kept there at the end of `<folder>.log`, after those of earlier builds. With `keep_rejected`, a build that ran and is refused is bundled as well, for people who know
    better. With `tuning`, kernels are tuned first, for as long as its budget says, and the build takes what its database has;
    a tuning that fails is told, as a step without kernels too, and the build goes on. Raises EngineMissing or UnknownTarget, and
    DiskFull or OSError where there is no room: no build is refused for that.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = log_of(folder)
    # A build that is refused leaves the bundle before it where it is, and so what made that one.
    if log.exists() and log.stat().st_size:
        with log.open("a", encoding="utf-8") as file:
            file.write("\n")

    def say(words: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {words}\n")
        tell(words)

    say(f"building {target}")
    with tempfile.TemporaryDirectory(dir=str(folder.parent), prefix=".bundle-") as scratch:
        engine, work = backend(target.engine, log, tuning.database if tuning else None), Path(scratch)
        if tuning is not None:
            _tune(engine, onnx_path, target, tuning, say, on_tuned)
        proof = _Proof(evidence, manifest, max_lost_points, threads)
        tried = _best(engine, onnx_path, target, work, proof, calibration, say)
        if not isinstance(tried, _Tried):
            say(tried.reason)
            return tried
        built = tried.built
        say(f"{built.state}{f': {built.reason}' if built.reason else ''}")
        if built.state is State.REJECTED and not (keep_rejected and tried.ran):
            return built
        whole = {**manifest, **tried.entries, **_entries(engine, target, tried)}
        sources = {**_probe(work, evidence, tried), **{name: work / name for name in tried.variant.files}}
        return replace(built, bundle=write_bundle(folder, whole, sources))


def log_of(folder: Path) -> Path:
    """Return where the steps of a build into the folder are kept, and what its engine printed."""
    return folder.parent / f"{folder.name}.log"


def _tune(
    engine: Backend,
    onnx_path: Path,
    target: Target,
    tuning: Tuning,
    say: Callable[[str], None],
    on_tuned: Callable[[Step], None],
) -> None:
    if tuning.budget == Budget():
        return
    try:
        for step in engine.tune(onnx_path, target, tuning):
            on_tuned(step)
            say(step.words(tuning.budget))
    except CompilerError as error:
        on_tuned(Step((), 0, ended=str(error)))
        say(f"not tuned: {error}")


def _best(
    engine: Backend,
    onnx_path: Path,
    target: Target,
    work: Path,
    proof: _Proof,
    calibration: Floats | None,
    say: Callable[[str], None],
) -> _Tried | Built:
    """Return the first variant that is not refused, else the one that came closest; where none was made, why."""
    nearest: _Tried | None = None
    try:
        with contextlib.closing(engine.build(onnx_path, target, work, calibration)) as variants:
            for variant in variants:
                say(f"running it on {proof.evidence.count} pictures{f', {variant.note}' if variant.note else ''}")
                tried = _try(engine, variant, target, work, proof)
                if tried.built.state is not State.REJECTED:
                    return tried
                say(f"not this one: {tried.built.reason}")
                nearest = tried if nearest is None else _nearer(nearest, tried)
    except BuildFailed as error:
        if nearest is None or not nearest.built.report:
            return Built(target, State.REJECTED, str(error))
    return nearest or Built(target, State.REJECTED, f"{target.engine} made nothing of the network")


def _try(
    engine: Backend,
    variant: BuiltModel,
    target: Target,
    work: Path,
    proof: _Proof,
) -> _Tried:
    evidence = proof.evidence
    comparison, judge, first = Comparison(evidence.expected), evidence.judge(), evidence.expected[:0]
    kept: list[Floats] = []
    model = work / variant.model_file
    try:
        # What is tried is what devices get.
        embeds = judge.takes_embeddings and ENGINES[target.engine].embeds and engine.embed(model)
        for pictures in evidence.parts():
            outputs, *more = (
                engine.outputs(model, pictures, proof.threads)
                if embeds
                else [engine.run(model, pictures, proof.threads)]
            )
            kept.append(outputs[proof.decided_on(comparison.count, len(outputs))])
            comparison.add(outputs)
            if comparison.not_finite:
                break
            judge.add(outputs)
            if more:
                judge.embedded(more[0])
            first = outputs[:PROBE_COUNT] if not len(first) else first
    except CannotRunHere as error:
        return _unseen(variant, target, evidence, str(error))
    except (BuildFailed, EngineMissing):
        raise
    except Exception as error:  # Engines raise what they like; the build is then simply not usable.
        if is_full(error):
            raise
        return _Tried(variant, Built(target, State.REJECTED, f"it does not run: {error}"), comparison, {}, first)
    # What is not a number answers nothing.
    accuracy = 0.0 if comparison.not_finite else judge.accuracy()
    allowed = comparison.allowed_error(target.precision)
    entries = {} if comparison.not_finite else judge.entries()
    agreed = proof.agreement(kept, entries) if entries else None
    report = Report(accuracy, evidence.subnet_accuracy, comparison.max_abs_error, evidence.count, allowed, agreed)
    reason = comparison.objection(report, target.precision, proof.max_lost_points, judge.measure)
    if reason is not None:
        told = f"{reason} ({variant.note})" if variant.note else reason
        return _Tried(variant, Built(target, State.REJECTED, told, report), comparison, entries, first)
    return _Tried(variant, Built(target, State.VERIFIED, variant.note, report), comparison, entries, first)


def _unseen(variant: BuiltModel, target: Target, evidence: Evidence, reason: str) -> _Tried:
    """Return a build that could not be run: the subnet's own outputs stand for its."""
    comparison, judge = Comparison(evidence.expected), evidence.judge()
    comparison.add(evidence.expected)
    judge.add(evidence.expected)
    return _Tried(
        variant, Built(target, State.BUILT, reason), comparison, judge.entries(), evidence.expected[:PROBE_COUNT]
    )


def _nearer(one: _Tried, other: _Tried) -> _Tried:
    """Return the rejected build that came closer to holding: its reason tells people most."""
    if one.built.report is None:
        return other
    return other if other.built.report and other.built.report.accuracy > one.built.report.accuracy else one


def _probe(work: Path, evidence: Evidence, tried: _Tried) -> dict[str, Path]:
    """Write the pictures and outputs that a device checks itself with before it serves."""
    pictures = next(iter(evidence.parts()))
    np.save(str(work / PROBE_INPUT), pictures[:PROBE_COUNT].astype(np.float32))
    np.save(str(work / PROBE_EXPECTED), tried.outputs[:PROBE_COUNT].astype(np.float32))
    return {name: work / name for name in (PROBE_INPUT, PROBE_EXPECTED)}


def _entries(engine: Backend, target: Target, tried: _Tried) -> dict[str, Any]:
    span = tried.comparison.high - tried.comparison.low
    return {
        "engine": target.engine,
        "engine_requirement": engine.requirement,
        "verification": engine.verification,
        "precision": target.precision,
        "model_file": tried.variant.model_file,
        "probe": {
            "input_file": PROBE_INPUT,
            "expected_file": PROBE_EXPECTED,
            "max_abs_error": tolerance(target.precision, span),
        },
    }


def tolerance(precision: str, span: float) -> float:
    """Return how far a device's outputs may be from those expected, whose values lie in a range of this width."""
    # Outputs of a small range are held to the range 1, or rounding alone would fail the probe.
    return _PROBE_TOLERANCE.get(precision, _PROBE_TOLERANCE["int8"]) * max(1.0, span)
