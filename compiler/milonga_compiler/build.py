"""Build a network for one target, prove it right on real pictures, and bundle it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.bundle import Bundle, write_bundle
from milonga_compiler.errors import BuildFailed, CompilerError
from milonga_compiler.parity import Report, compare, objection
from milonga_compiler.target import Target

PROBE_COUNT = 4

# How far a device's outputs may be from those seen here, as a share of their range. fp32 engines only reorder sums.
# int8 kernels differ between processors: those with VNNI add 32-bit products, those without saturate at 16 bits.
_PROBE_TOLERANCE = {"fp32": 2e-3, "int8": 0.15}


@dataclass(frozen=True)
class Evidence:
    """What a build is held against: normalised pictures (n, 3, H, W), the subnet's logits on them, and labels (n,)."""

    pictures: Floats
    logits: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Built:
    """How a build ended. `state` is "VERIFIED" or "REJECTED"; a rejected build has a reason and no bundle."""

    target: Target
    state: str
    reason: str
    report: Report | None = None
    bundle: Bundle | None = None
    logits: Floats | None = None


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

    `manifest` gives what only the caller knows: task, project, model_version, subnet, classes, input, reference,
    expected_ms. Engine, files, probe and output are filled in here. Raises EngineMissing or UnknownTarget.
    """
    engine = backend(target.engine)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        rejected = Built(target, "REJECTED", "the engine made nothing")
        try:
            for variant in engine.build(onnx_path, target, work, calibration):
                tried = _try(engine, variant, target, work, evidence, max_lost_points, threads)
                if tried.logits is not None:
                    whole = _manifest(manifest, engine, target, variant, evidence, tried.logits)
                    sources = {**_probe(work, evidence, tried.logits), **{name: work / name for name in variant.files}}
                    bundle = write_bundle(folder, whole, sources)
                    return Built(target, "VERIFIED", variant.note, tried.report, bundle, tried.logits)
                if rejected.report is None or (tried.report and tried.report.accuracy > rejected.report.accuracy):
                    rejected = tried
        except BuildFailed as error:
            return rejected if rejected.report else Built(target, "REJECTED", str(error))
        return rejected


def _try(
    engine: Backend,
    variant: BuiltModel,
    target: Target,
    work: Path,
    evidence: Evidence,
    max_lost_points: float,
    threads: int,
) -> Built:
    try:
        logits = engine.run(work / variant.model_file, evidence.pictures, threads)
    except CompilerError:
        raise
    except Exception as error:  # Engines raise what they like; the build is then simply not usable.
        return Built(target, "REJECTED", f"it does not run: {error}")
    report = compare(logits, evidence.logits, evidence.labels)
    reason = objection(report, logits, evidence.logits, target.precision, max_lost_points)
    if reason is not None:
        return Built(target, "REJECTED", reason, report)
    return Built(target, "VERIFIED", "", report, logits=logits)


def _probe(work: Path, evidence: Evidence, logits: Floats) -> dict[str, Path]:
    """Write the pictures and outputs that a device checks itself with before it serves."""
    np.save(str(work / "probe_input.npy"), evidence.pictures[:PROBE_COUNT])
    np.save(str(work / "probe_expected.npy"), logits[:PROBE_COUNT])
    return {name: work / name for name in ("probe_input.npy", "probe_expected.npy")}


def _manifest(
    given: Mapping[str, Any],
    engine: Backend,
    target: Target,
    variant: BuiltModel,
    evidence: Evidence,
    logits: Floats,
) -> dict[str, Any]:
    span = float(logits.max() - logits.min())
    return {
        **given,
        "engine": target.engine,
        "engine_requirement": engine.requirement,
        "verification": engine.verification,
        "precision": target.precision,
        "model_file": variant.model_file,
        "output": {"name": "logits", "shape": [1, int(logits.shape[1])], "activation": "softmax"},
        "probe": {
            "input_file": "probe_input.npy",
            "expected_file": "probe_expected.npy",
            "max_abs_error": max(1e-3, _PROBE_TOLERANCE[target.precision] * span),
        },
    }
