"""Build one subnet for all targets of a device type. Runs as a job: see milonga_hub/jobs.py for how.

Spec and result are plain JSON; a target that is finished is not built again when the job is restarted.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from milonga import pictures
from milonga_compiler.build import Built, Evidence, State, build
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.errors import BundleInvalid, CompilerError, EngineMissing
from milonga_compiler.target import Target
from numpy.typing import NDArray
from PIL import Image

from milonga_hub.jobs import JobContext, JobError, write_atomically

Reference = Callable[[NDArray[np.float32]], dict[str, Any]]


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return {"builds": [...]}, one entry for each target, verified or rejected with its reason."""
    for leftover in workdir.glob(".bundle-*"):  # Of a run that was killed.
        shutil.rmtree(leftover)
    try:
        targets = [Target.parse(name, spec.get("architecture", "")) for name in spec["targets"]]
        with np.load(spec["data"]) as arrays:
            train, validation = arrays["x_train"], arrays["x_val"]
            labels = arrays["y_val"].astype(np.int64)
        logits = np.load(spec["logits"]).astype(np.float32)
        seen = pictures.normalise(pictures.scaled(validation, spec["manifest"]["size_px"]), spec["mean"], spec["std"])
        evidence = Evidence(seen, logits, labels)
        calibration = _calibration(train, spec)
        context.progress(0.0, f"describing {len(validation)} validation pictures")
        reference = reference_of(validation)
        builds = []
        for index, target in enumerate(targets):
            context.progress((index + 0.1) / (len(targets) + 0.1), f"building {target}")
            builds.append(_one(target, spec, workdir, evidence, calibration, reference))
    except CompilerError as error:
        raise JobError(str(error)) from error
    context.progress(1.0, f"{sum(one['state'] == 'VERIFIED' for one in builds)} of {len(builds)} builds hold")
    return {"builds": builds}


def _calibration(train: NDArray[np.uint8], spec: dict[str, Any]) -> NDArray[np.float32]:
    """Return training pictures, never those that prove the build, chosen alike for equal seeds."""
    chosen = np.random.default_rng(spec["seed"]).permutation(len(train))[: spec["calibration_count"]]
    scaled = pictures.scaled(train[np.sort(chosen)], spec["manifest"]["size_px"])
    return pictures.normalise(scaled, spec["mean"], spec["std"])


def _one(
    target: Target,
    spec: dict[str, Any],
    workdir: Path,
    evidence: Evidence,
    calibration: NDArray[np.float32],
    reference: Reference,
) -> dict[str, Any]:
    slug = f"{target.engine}-{target.precision}"
    record, order = workdir / f"{slug}.json", _order(spec)
    finished = _finished(record, order)
    if finished is not None:
        return finished
    try:
        built = build(
            Path(spec["onnx"]),
            target,
            workdir / slug,
            evidence,
            calibration,
            _manifest(spec),
            spec["max_accuracy_loss_points"],
            spec["threads"],
            describe=lambda logits: {"reference": reference(logits)},
        )
    except EngineMissing as error:
        # Not kept: the engine may be there when the job is run again, and the other targets need not wait for it.
        return _result(Built(target, State.REJECTED, str(error)))
    result = _result(built)
    write_atomically(record, json.dumps({"order": order, "result": result}))
    return result


def _order(spec: dict[str, Any]) -> str:
    """Return a digest of all that a build depends on, so that a changed order is not answered with an old build."""
    asked = {key: value for key, value in spec.items() if key != "targets"}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _finished(record: Path, order: str) -> dict[str, Any] | None:
    """Return the result of an earlier run of the same order whose bundle is still whole, or None."""
    if not record.exists():
        return None
    kept = json.loads(record.read_text(encoding="utf-8"))
    if kept["order"] != order:
        return None
    result: dict[str, Any] = kept["result"]
    if not result["directory"]:
        return result
    try:
        whole = verify_bundle(Path(result["directory"])).digest == result["bundle"]
    except BundleInvalid:
        return None
    return result if whole else None


def _manifest(spec: dict[str, Any]) -> dict[str, Any]:
    given = spec["manifest"]
    size = given["size_px"]
    fields = ("task", "project", "model_version", "subnet", "classes", "expected_ms")
    return {
        **{key: given[key] for key in fields},
        "input": {
            "name": "image",
            "shape": [1, 3, size, size],
            "dtype": "float32",
            "mean": spec["mean"],
            "std": spec["std"],
            "size_px": size,
        },
    }


def reference_of(validation: NDArray[np.uint8]) -> Reference:
    """Return a function from a build's logits (n, c) to what healthy telemetry of that build looks like.

    Histograms of the validation pictures, uint8 (n, 3, H, W), are counted once; confidence and classes are those of
    the build that will serve: int8 is less or more sure of itself than the subnet that it was made from.
    """
    seen = [pictures.statistics(Image.fromarray(picture.transpose(1, 2, 0))) for picture in validation]
    inputs = {name: pictures.histogram(name, [one[name] for one in seen]) for name in pictures.INPUT_STATISTICS}

    def reference(logits: NDArray[np.float32]) -> dict[str, Any]:
        return {
            **inputs,
            "confidence": pictures.histogram("confidence", pictures.softmax(logits).max(axis=1).tolist()),
            "class_counts": np.bincount(logits.argmax(axis=1), minlength=logits.shape[1]).tolist(),
            "sample_count": len(logits),
        }

    return reference


def _result(built: Built) -> dict[str, Any]:
    bundle, report = built.bundle, built.report
    return {
        "engine": built.target.engine,
        "precision": built.target.precision,
        "state": str(built.state),
        "reason": built.reason,
        "directory": str(bundle.folder.absolute()) if bundle else "",
        "files": [vars(file) for file in bundle.files] if bundle else [],
        "size_bytes": sum(file.size_bytes for file in bundle.files) if bundle else 0,
        "bundle": bundle.digest if bundle else "",
        "accuracy": report.accuracy if report else None,
        "subnet_accuracy": report.subnet_accuracy if report else None,
        # JSON knows no infinity.
        "max_abs_error": report.max_abs_error if report and math.isfinite(report.max_abs_error) else None,
    }
