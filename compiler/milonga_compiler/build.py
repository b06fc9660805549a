"""Build a network for one target, prove it right on real pictures, and bundle it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Callable

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.bundle import Bundle, write_bundle
from milonga_compiler.errors import BuildFailed, CannotRunHere, EngineMissing, PicturesUnusable
from milonga_compiler.parity import Report, compare, objection
from milonga_compiler.target import Target

PROBE_COUNT = 4

# How far a device's outputs may be from those seen here, as a share of their range. fp32 kernels only add in another
# order (ONNX Runtime and TVM on x86 and ARM stayed within 3e-5), and 1e-3 still tells them from wrong ones. int8 kernels
# differ between processors: those with VNNI or dot products add exactly, older x86 saturates pairs at 16 bits.
_PROBE_TOLERANCE = {"fp32": 1e-3, "int8": 0.1}

# Manifest entries that follow from the build's own outputs, such as reference histograms: logits (n, c) -> entries.
Describe = Callable[[Floats], Mapping[str, Any]]


class State(str, Enum):
    """How a build ended: BUILT ones have never run, VERIFIED ones ran and hold, REJECTED ones must not be used."""

    BUILT = "BUILT"
    VERIFIED = "VERIFIED"
    REJECTED = "REJECTED"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Evidence:
    """What a build is held against: normalised pictures (n, 3, H, W), the subnet's logits on them, and labels (n,).

    Raises PicturesUnusable where there are none, or not as many of each.
    """

    pictures: Floats
    logits: Floats
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        counts = {len(self.pictures), len(self.logits), len(self.labels)}
        if len(counts) > 1 or self.pictures.ndim != 4 or self.logits.ndim != 2:
            shapes = f"{self.pictures.shape}, logits {self.logits.shape} and labels {self.labels.shape}"
            raise PicturesUnusable(f"pictures {shapes} do not belong together; make them from one data set")
        if counts == {0}:
            raise PicturesUnusable("there are no validation pictures to prove a build with; add some")


@dataclass(frozen=True)
class Built:
    """How a build ended. A rejected one has a reason and no bundle; a built one has a bundle and no report."""

    target: Target
    state: State
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
    describe: Describe | None = None,
) -> Built:
    """Return the first variant of the build that holds against the evidence, bundled in `folder`, or why none does.

    `manifest` gives what only the caller knows: task, project, model_version, subnet, classes, input, expected_ms;
    `describe` what follows from the build's outputs: reference. Engine, files, probe and output are filled in here.
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
                    if tried.state is not State.REJECTED:
                        logits = evidence.logits if tried.logits is None else tried.logits
                        whole = {**manifest, **(describe(logits) if describe else {})}
                        whole.update(_entries(engine, target, variant, logits))
                        sources = {**_probe(work, evidence, logits), **{name: work / name for name in variant.files}}
                        bundle = write_bundle(folder, whole, sources)
                        return Built(target, tried.state, tried.reason, tried.report, bundle, tried.logits)
                    rejected = _nearer(rejected, tried)
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
) -> Built:
    try:
        logits = engine.run(work / variant.model_file, evidence.pictures, threads)
    except CannotRunHere as error:
        return Built(target, State.BUILT, str(error))
    except EngineMissing:
        raise
    except Exception as error:  # Engines raise what they like; the build is then simply not usable.
        return Built(target, State.REJECTED, f"it does not run: {error}")
    report = compare(logits, evidence.logits, evidence.labels)
    reason = objection(report, logits, evidence.logits, target.precision, max_lost_points)
    if reason is not None:
        tried = f"{reason} ({variant.note})" if variant.note else reason
        return Built(target, State.REJECTED, tried, report)
    return Built(target, State.VERIFIED, variant.note, report, logits=logits)


def _nearer(one: Built, other: Built) -> Built:
    """Return the rejected build that came closer to holding: its reason tells people most."""
    if one.report is None:
        return other
    return other if other.report and other.report.accuracy > one.report.accuracy else one


def _probe(work: Path, evidence: Evidence, logits: Floats) -> dict[str, Path]:
    """Write the pictures and outputs that a device checks itself with before it serves."""
    np.save(str(work / "probe_input.npy"), evidence.pictures[:PROBE_COUNT].astype(np.float32))
    np.save(str(work / "probe_expected.npy"), logits[:PROBE_COUNT].astype(np.float32))
    return {name: work / name for name in ("probe_input.npy", "probe_expected.npy")}


def _entries(engine: Backend, target: Target, variant: BuiltModel, logits: Floats) -> dict[str, Any]:
    span = float(logits.max() - logits.min())
    share = _PROBE_TOLERANCE.get(target.precision, _PROBE_TOLERANCE["int8"])
    return {
        "engine": target.engine,
        "engine_requirement": engine.requirement,
        "verification": engine.verification,
        "precision": target.precision,
        "model_file": variant.model_file,
        "output": {"name": "logits", "shape": [1, int(logits.shape[1])], "activation": "softmax"},
        "probe": {
            "input_file": "probe_input.npy",
            "expected_file": "probe_expected.npy",
            # Outputs of a small range are held to the range 1, or rounding alone would fail the probe.
            "max_abs_error": share * max(1.0, span),
        },
    }
