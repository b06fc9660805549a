"""Bundle a network for an engine that each device builds for itself, with finished builds to fall back to."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Floats
from milonga_compiler.build import PROBE_COUNT, Built, State, tolerance
from milonga_compiler.bundle import PROBE_EXPECTED, PROBE_INPUT, Bundle, write_bundle
from milonga_compiler.decisions import LEAST_AGREEMENT, chosen, decisions
from milonga_compiler.engines import ENGINES, Precision
from milonga_compiler.environments import usable
from milonga_compiler.errors import BuildFailed
from milonga_compiler.network import Network, copy_whole, read_network
from milonga_compiler.parity import Evidence
from milonga_compiler.target import Target

# TensorRT tries out kernels for minutes on a small board; half an hour is as long as a build on the hub may take.
MAX_SECONDS = 1800.0
_ONNX, _CALIBRATION = "network.onnx", "calibration.npy"
_PROOF_INPUT, _PROOF_DECISIONS = "proof_input.npy", "proof_decisions.json"
# Where decisions are compared: what is off by half the range is wrong all the same.
_WIDE_TOLERANCE = 0.5


def defer(
    onnx_path: Path,
    target: Target,
    folder: Path,
    evidence: Evidence,
    calibration: Floats | None,
    manifest: Mapping[str, Any],
    fallbacks: Sequence[Bundle],
    max_seconds: float = MAX_SECONDS,
) -> Built:
    """Return a bundle in `folder` that holds what a device builds of, for an engine of BuildSite.DEVICE: BUILT, never run.

    `fallbacks` are finished bundles of the same network, the preferred first; a device takes the first engine that works.
    Where the engine is installed here too, it reads the network now. Returns a REJECTED build where the engine does not know
    the network, or there is nothing to fall back to.
    """
    try:
        network = _accepted(onnx_path, target, calibration)
    except BuildFailed as error:
        return Built(target, State.REJECTED, str(error))
    if not fallbacks:
        reason = (
            f"no finished build holds that a device could fall back to where {target.engine} does not build; add a target"
            " such as onnxruntime/fp32 behind it"
        )
        return Built(target, State.REJECTED, reason)
    with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
        sources = _written(Path(scratch), network, target, evidence, calibration)
        judge = evidence.judge()
        judge.add(evidence.expected)
        whole = {**manifest, **judge.entries()}
        if target.precision is Precision.INT8:
            sources.update(_proof(Path(scratch), evidence, whole))
        whole.update(_entries(target, evidence, whole["task"], sources, max_seconds))
        entries = []
        for number, bundle in enumerate(fallbacks, 1):
            entry, files = _fallback(bundle, f"fallback-{number}")
            entries.append(entry)
            sources.update(files)
        bundle = write_bundle(folder, {**whole, "fallbacks": entries}, sources)
    names = ", ".join(f"{one['engine']}/{one['precision']}" for one in entries)
    return Built(target, State.BUILT, f"each device builds it; where that fails: {names}", bundle=bundle)


def _accepted(onnx_path: Path, target: Target, calibration: Floats | None) -> Network:
    """Return the network, read by the engine where it is installed. Raises BuildFailed."""
    network = read_network(onnx_path)
    if target.precision is Precision.INT8 and (calibration is None or not len(calibration)):
        raise BuildFailed("int8 needs pictures to calibrate on; give some, for example 100 of the training set")
    unknown = backend(target.engine).unsupported(network) if usable(target.engine) else frozenset()
    if unknown:
        raise BuildFailed(f"{target.engine} does not know the operators {', '.join(sorted(unknown))}")
    return network


def _written(
    folder: Path, network: Network, target: Target, evidence: Evidence, calibration: Floats | None
) -> dict[str, Path]:
    """Write what the device builds of and proves itself with; return the files by name."""
    copy_whole(network, folder / _ONNX)
    np.save(str(folder / PROBE_INPUT), next(iter(evidence.parts()))[:PROBE_COUNT].astype(np.float32))
    np.save(str(folder / PROBE_EXPECTED), evidence.expected[:PROBE_COUNT].astype(np.float32))
    names = [_ONNX, PROBE_INPUT, PROBE_EXPECTED]
    if target.precision is Precision.INT8 and calibration is not None:
        # Half the bytes, and finer than the 8 bits that pictures have.
        np.save(str(folder / _CALIBRATION), calibration.astype(np.float16))
        names.append(_CALIBRATION)
    return {name: folder / name for name in names}


def _proof(folder: Path, evidence: Evidence, manifest: Mapping[str, Any]) -> dict[str, Path]:
    """Write validation pictures and what the network decides on them; return the files by name, none where that proves nothing."""
    numbers = chosen(len(evidence.expected))
    found = decisions(evidence.expected[numbers], manifest)
    if found is None:
        return {}
    pictures, start = [], 0
    for part in evidence.parts():
        pictures.append(part[numbers[(numbers >= start) & (numbers < start + len(part))] - start].astype(np.float16))
        start += len(part)
    np.save(str(folder / _PROOF_INPUT), np.concatenate(pictures))
    (folder / _PROOF_DECISIONS).write_text(json.dumps(found), encoding="utf-8")
    return {name: folder / name for name in (_PROOF_INPUT, _PROOF_DECISIONS)}


def _entries(
    target: Target, evidence: Evidence, task: str, sources: Mapping[str, Path], max_seconds: float
) -> dict[str, Any]:
    span = float(evidence.expected.max() - evidence.expected.min())
    engine = ENGINES[target.engine]
    built_of: dict[str, Any] = {
        "calibration_file": _CALIBRATION if _CALIBRATION in sources else "",
        "max_seconds": max_seconds,
    }
    if _PROOF_DECISIONS in sources:
        built_of["proof"] = {
            "input_file": _PROOF_INPUT,
            "decisions_file": _PROOF_DECISIONS,
            "least_agreement": LEAST_AGREEMENT[task],
            "max_abs_error": _WIDE_TOLERANCE * max(1.0, span),
        }
    return {
        "engine": target.engine,
        "engine_requirement": engine.requirement,
        "verification": engine.verification,
        "precision": target.precision,
        "model_file": _ONNX,
        "device_build": built_of,
        # Where there is a proof, agents from before it take this alone.
        "probe": {
            "input_file": PROBE_INPUT,
            "expected_file": PROBE_EXPECTED,
            "max_abs_error": tolerance(target.precision, span),
        },
    }


def _fallback(bundle: Bundle, prefix: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return the manifest's entry of a finished bundle, and its files by their names in the new one."""
    kept = ("engine", "engine_requirement", "verification", "precision")
    entry: dict[str, Any] = {key: bundle.manifest[key] for key in kept}
    entry["model_file"] = f"{prefix}/{bundle.manifest['model_file']}"
    probe = bundle.manifest["probe"]
    places = {key: f"{prefix}/{probe[key]}" for key in ("input_file", "expected_file")}
    entry["probe"] = {**places, "max_abs_error": probe["max_abs_error"]}
    files = {
        f"{prefix}/{file.path}": bundle.folder / file.path for file in bundle.files if file.path != "manifest.json"
    }
    return entry, files
