"""Build one subnet for all targets of a device type. Runs as a job: see milonga_hub/jobs.py for how.

Spec and result are plain JSON; a target that is finished is not built again when the job is restarted.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from milonga.inputs import Input
from milonga_compiler.backends.base import Floats
from milonga_compiler.build import Built, State, build
from milonga_compiler.bundle import read_bundle, verify_bundle
from milonga_compiler.deferred import defer
from milonga_compiler.engines import ENGINES, BuildSite, Precision
from milonga_compiler.errors import BundleInvalid, EngineMissing
from milonga_compiler.files import write_atomically
from milonga_compiler.parity import Report
from milonga_compiler.target import Target
from milonga_compiler.timing import Timer
from milonga_compiler.tuning import Step

from milonga_hub.blobs import digest_of_file
from milonga_hub.builds import rules
from milonga_hub.builds.evidence_for_job import SeenEvidence, gathered
from milonga_hub.builds.tuning_for_job import JobTuning, asking
from milonga_hub.jobs import JobContext

# Entries of the spec that say where something lies; what is built depends on what lies in the first two.
_READ, _PLACES = ("onnx", "expected"), ("data", "tuning_database")


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return {"builds": [...]}, one entry for each target, verified or rejected with its reason."""
    for leftover in workdir.glob(".bundle-*"):  # Of a run that was killed.
        shutil.rmtree(leftover)
    targets = [Target.parse(name, spec.get("architecture", "")) for name in spec["targets"]]
    context.progress(0.0, "reading pictures")
    evidence, calibration = gathered(spec)
    made: dict[Target, dict[str, Any]] = {}
    # What devices build for themselves comes last: it falls back to what holds of the others.
    for index, target in enumerate(sorted(targets, key=_on_devices)):
        tell = _Teller(context, index, len(targets), target)
        if _on_devices(target):
            tell(f"bundling {target} for devices to build")
            held = [made[one]["directory"] for one in targets if one in made and made[one]["state"] == "VERIFIED"]
            made[target] = _deferred(target, spec, workdir, evidence, calibration, [*held, *spec.get("held", [])])
        else:
            timer = asking(context)
            made[target] = _one(target, spec, workdir, evidence, calibration, tell, timer)
    context.progress(1.0, f"{sum(one['state'] == 'VERIFIED' for one in made.values())} of {len(made)} builds hold")
    return {"builds": [made[target] for target in targets]}


def _on_devices(target: Target) -> bool:
    return ENGINES[target.engine].build_site is BuildSite.DEVICE


def _deferred(
    target: Target,
    spec: dict[str, Any],
    workdir: Path,
    evidence: SeenEvidence,
    calibration: Floats | None,
    held: Sequence[str],
) -> dict[str, Any]:
    """Return a bundle of what devices build of, with the builds that hold (their folders) to fall back to. It is quickly made again."""
    fallbacks = [read_bundle(Path(one)) for one in held]
    folder, manifest = workdir / f"{target.engine}-{target.precision}", _manifest(spec, evidence.seen)
    built = defer(Path(spec["onnx"]), target, folder, evidence, calibration, manifest, fallbacks)
    return _result(built, workdir, spec)


# Of a target that is tuned, how much of its progress that is.
_TUNING_SHARE = 0.8


class _Teller:
    """Tells in words what is done for a target; `share` is how much of it is done, of 1."""

    def __init__(self, context: JobContext, index: int, count: int, target: Target) -> None:
        self._context, self._index, self._count, self._target = context, index, count, target
        self.share = 0.1

    def __call__(self, words: str) -> None:
        fraction = (self._index + self.share) / (self._count + 0.1)
        self._context.progress(fraction, words if str(self._target) in words else f"{self._target}: {words}")


def _one(
    target: Target,
    spec: dict[str, Any],
    workdir: Path,
    evidence: SeenEvidence,
    calibration: Floats | None,
    tell: _Teller,
    timer: Timer,
) -> dict[str, Any]:
    slug = f"{target.engine}-{target.precision}"
    record, order = workdir / f"{slug}.json", _order(spec)
    finished = _finished(workdir, slug, order)
    if finished is not None:
        return finished
    (workdir / f"{slug}.log").unlink(missing_ok=True)  # Of another order, or of a run that was killed.
    tuning = JobTuning(target, spec, workdir / f"{slug}.tuned.json", order, timer)

    def tuned(step: Step) -> None:
        tuning.keep(step)
        tell.share = 0.1 + _TUNING_SHARE * tuning.spent_share

    try:
        built = build(
            Path(spec["onnx"]),
            target,
            workdir / slug,
            evidence,
            calibration,
            _manifest(spec, evidence.seen),
            spec["max_accuracy_loss_points"],
            spec["threads"],
            tell,
            keep_rejected=True,
            tuning=tuning.tuning,
            on_tuned=tuned,
        )
    except EngineMissing as error:
        # Not kept: the engine may be there when the job is run again, and the other targets need not wait for it.
        return _result(Built(target, State.REJECTED, str(error)), workdir, spec)
    result = _result(built if spec["data"] else _unjudged(built), workdir, spec)
    result["tuning"] = tuning.told
    write_atomically(record, json.dumps({"order": order, "result": result}))
    return result


def _order(spec: dict[str, Any]) -> str:
    """Return a digest of all that a build depends on, so that a changed order is not answered with an old build.

    Where its files lie does not count: a job that goes on elsewhere has other folders.
    """
    asked = {key: value for key, value in spec.items() if key not in ("targets", "held", *_READ, *_PLACES)}
    asked["read"] = [digest_of_file(Path(spec[key])) for key in _READ]
    asked["data"] = Path(spec["data"]).name
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _finished(workdir: Path, slug: str, order: str) -> dict[str, Any] | None:
    """Return the result of an earlier run of the same order whose bundle is still whole, or None."""
    record = workdir / f"{slug}.json"
    if not record.exists():
        return None
    kept = json.loads(record.read_text(encoding="utf-8"))
    if kept["order"] != order:
        return None
    result: dict[str, Any] = {**kept["result"], "log": _log(workdir, slug)}
    if not result["directory"]:
        return result
    result["directory"] = str((workdir / slug).absolute())
    try:
        whole = verify_bundle(Path(result["directory"])).digest == result["bundle"]
    except BundleInvalid:
        return None
    return result if whole else None


def _manifest(spec: dict[str, Any], seen: Input) -> dict[str, Any]:
    given = spec["manifest"]
    fields = ("task", "project", "model_version", "subnet", "classes", "expected_ms")
    return {**{key: given[key] for key in fields}, "input": seen.described()}


def _unjudged(built: Built) -> Built:
    """Return a build that was held against the network on made pictures alone as what is known of it."""
    if built.state is not State.VERIFIED:
        return built
    if built.target.precision is Precision.FP32:
        return replace(built, reason="accuracy not known: no data set")
    why = "what it loses of the network's accuracy shows on pictures alone; import it with --data DATASET"
    return replace(built, state=State.BUILT, reason=why)


def _result(built: Built, workdir: Path, spec: dict[str, Any]) -> dict[str, Any]:
    bundle, report, judged = built.bundle, built.report, bool(spec["data"])
    return {
        "engine": built.target.engine,
        "precision": built.target.precision,
        "state": str(built.state),
        "reason": built.reason,
        "directory": str(bundle.folder.absolute()) if bundle else "",
        "files": [vars(file) for file in bundle.files] if bundle else [],
        "size_bytes": sum(file.size_bytes for file in bundle.files) if bundle else 0,
        "bundle": bundle.digest if bundle else "",
        "accuracy": report.accuracy if report and judged else None,
        "subnet_accuracy": report.subnet_accuracy if report and judged else None,
        # JSON knows no infinity.
        "max_abs_error": report.max_abs_error if report and math.isfinite(report.max_abs_error) else None,
        "log": _log(workdir, f"{built.target.engine}-{built.target.precision}"),
        "gates": _gates(report, spec["max_accuracy_loss_points"] if judged else None)
        if report
        else _gates_on_devices(bundle.manifest if bundle else {}),
    }


def _log(workdir: Path, slug: str) -> str:
    log = workdir / f"{slug}.log"
    return str(log.absolute()) if log.exists() else ""


def _gates(report: Report, max_lost_points: float | None) -> list[dict[str, Any]]:
    """Return what the build was held to here, None for accuracy where nothing is known; the device's own figures come later."""
    error, allowed = report.max_abs_error, report.allowed_error
    found = error if math.isfinite(error) else None
    parity = {"found": found, "allowed": allowed, "passed": found is not None and (allowed is None or error <= allowed)}
    if max_lost_points is None:
        return [{"name": "parity", **parity}]
    # 1e-9 forgives the rounding of the subtraction, as the gate does.
    passed = report.lost_points <= max_lost_points + 1e-9
    lost = {"unit": "points", "found": report.lost_points, "allowed": max_lost_points, "passed": passed}
    # The accuracy decides; this one is there to be compared with what devices build for themselves.
    differing = None if report.agreement is None else rules.disagreement(report.agreement)
    told = {"unit": "%", "found": differing, "allowed": None, "passed": differing is not None}
    return [{"name": "parity", **parity}, {"name": "accuracy", **lost}, {"name": "disagreement", **told}]


def _gates_on_devices(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what devices hold a build to that they make of this bundle, and nothing found yet; accuracy is not measured there."""
    made_of = manifest.get("device_build")
    if made_of is None:
        return []
    proof = made_of.get("proof")
    unknown = {"found": None, "passed": False}
    parity = {"name": "parity", "allowed": (proof or manifest["probe"])["max_abs_error"], **unknown}
    accuracy = {"name": "accuracy", "unit": "points", "allowed": None, **unknown}
    allowed = rules.disagreement(proof["least_agreement"]) if proof else None
    return [parity, accuracy, {"name": "disagreement", "unit": "%", "allowed": allowed, **unknown}]
