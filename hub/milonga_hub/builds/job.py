"""Build one subnet for all targets of a device type. Runs as a job: see milonga_hub/jobs.py for how.

Spec and result are plain JSON; a target that is finished is not built again when the job is restarted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from milonga import pictures
from milonga_compiler.build import Built, Evidence, build
from milonga_compiler.errors import CompilerError
from milonga_compiler.target import Target
from numpy.typing import NDArray
from PIL import Image

from milonga_hub.jobs import JobContext, JobError, write_atomically


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return {"builds": [...]}, one entry for each target, verified or rejected with its reason."""
    with np.load(spec["data"]) as arrays:
        train, validation = arrays["x_train"], arrays["x_val"]
        labels = arrays["y_val"].astype(np.int64)
    logits = np.load(spec["logits"]).astype(np.float32)
    normalised = pictures.normalise(validation, spec["mean"], spec["std"])
    evidence = Evidence(normalised, logits, labels)
    calibration = _calibration(train, spec)
    builds = []
    for index, name in enumerate(spec["targets"]):
        context.progress(index / len(spec["targets"]), f"building {name}")
        builds.append(_one(name, spec, workdir, evidence, calibration, validation))
    context.progress(1.0, f"{sum(one['state'] == 'VERIFIED' for one in builds)} of {len(builds)} builds hold")
    return {"builds": builds}


def _calibration(train: NDArray[np.uint8], spec: dict[str, Any]) -> NDArray[np.float32]:
    chosen = np.random.default_rng(spec["seed"]).permutation(len(train))[: spec["calibration_count"]]
    return pictures.normalise(train[np.sort(chosen)], spec["mean"], spec["std"])


def _one(
    name: str,
    spec: dict[str, Any],
    workdir: Path,
    evidence: Evidence,
    calibration: NDArray[np.float32],
    validation: NDArray[np.uint8],
) -> dict[str, Any]:
    slug = name.replace("/", "-")
    done = workdir / f"{slug}.json"
    if done.exists():
        finished: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return finished
    try:
        built = build(
            Path(spec["onnx"]),
            Target.parse(name),
            workdir / slug,
            evidence,
            calibration,
            _manifest(spec, evidence, validation),
            spec["max_accuracy_loss_points"],
            spec["threads"],
        )
    except CompilerError as error:
        raise JobError(str(error)) from error
    result = _result(built)
    write_atomically(done, json.dumps(result))
    return result


def _manifest(spec: dict[str, Any], evidence: Evidence, validation: NDArray[np.uint8]) -> dict[str, Any]:
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
        "reference": reference_of(validation, evidence.logits),
    }


def reference_of(validation: NDArray[np.uint8], logits: NDArray[np.float32]) -> dict[str, Any]:
    """Return what healthy telemetry looks like: histograms over the validation pictures, uint8 (n, 3, H, W)."""
    seen = [pictures.statistics(Image.fromarray(picture.transpose(1, 2, 0))) for picture in validation]
    confidence = pictures.softmax(logits).max(axis=1)
    return {
        "confidence": pictures.histogram("confidence", confidence.tolist()),
        **{name: pictures.histogram(name, [one[name] for one in seen]) for name in pictures.INPUT_STATISTICS},
        "class_counts": np.bincount(logits.argmax(axis=1), minlength=logits.shape[1]).tolist(),
        "sample_count": len(validation),
    }


def _result(built: Built) -> dict[str, Any]:
    bundle, report = built.bundle, built.report
    return {
        "engine": built.target.engine,
        "precision": built.target.precision,
        "state": built.state,
        "reason": built.reason,
        "directory": str(bundle.folder) if bundle else "",
        "files": [vars(file) for file in bundle.files] if bundle else [],
        "size_bytes": sum(file.size_bytes for file in bundle.files) if bundle else 0,
        "bundle": bundle.digest if bundle else "",
        "accuracy": report.accuracy if report else None,
        "subnet_accuracy": report.subnet_accuracy if report else None,
        "max_abs_error": report.max_abs_error if report else None,
    }
