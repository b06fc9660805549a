"""Which engines a bundle can run in, the preferred first: what it is for, then what it falls back to.

A manifest names its first engine at the top: `engine`, `precision`, `model_file`, `probe`. Where that engine's builds fit one
machine only, `model_file` is ONNX, `device_build` says what else a device makes its own build of, and `fallbacks` names finished
builds of the same network in other engines, in the order in which they are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Probe:
    """What an engine is held to before it serves: files of the bundle, and how far its outputs may be from those expected."""

    input_file: str
    expected_file: str
    max_abs_error: float


@dataclass(frozen=True)
class Proof:
    """Pictures, npy (n, 3, H, W), normalised; what the network decides on them, JSON; the least share that a build decides alike."""

    input_file: str
    decisions_file: str
    least_agreement: float


@dataclass(frozen=True)
class DeviceBuild:
    """What a device makes its own build of: ONNX, and for int8 pictures to calibrate on, npy (n, 3, H, W), normalised.

    Without `proof` the probe alone says whether a build is right.
    """

    onnx_file: str
    calibration_file: str
    max_seconds: float
    proof: Proof | None = None


@dataclass(frozen=True)
class Candidate:
    """One engine that a bundle may run in; `model_file` is empty where the device makes it."""

    engine: str
    precision: str
    model_file: str
    probe: Probe
    device_build: DeviceBuild | None = None

    @property
    def target(self) -> str:
        return f"{self.engine}/{self.precision}"


def candidates(manifest: Mapping[str, Any]) -> list[Candidate]:
    """Return the engines of a bundle in their order. Raises KeyError, TypeError or ValueError for what is no manifest."""
    return [_first(manifest), *(_finished(one) for one in manifest.get("fallbacks", []))]


def finished(manifest: Mapping[str, Any]) -> Candidate | None:
    """Return the first engine whose build is in the bundle itself, so that it runs wherever the engine is installed."""
    return next((one for one in candidates(manifest) if one.device_build is None), None)


def _first(manifest: Mapping[str, Any]) -> Candidate:
    described = manifest.get("device_build")
    if described is None:
        return _finished(manifest)
    made_of = DeviceBuild(
        str(manifest["model_file"]), str(described["calibration_file"]), float(described["max_seconds"])
    )
    probe, proof = _probe(manifest["probe"]), described.get("proof")
    if proof is not None:
        # What it decides says more than how far it is off, which is then held to a wider bound.
        probe = replace(probe, max_abs_error=float(proof["max_abs_error"]))
        places = str(proof["input_file"]), str(proof["decisions_file"])
        made_of = replace(made_of, proof=Proof(*places, float(proof["least_agreement"])))
    return Candidate(str(manifest["engine"]), str(manifest["precision"]), "", probe, made_of)


def _finished(one: Mapping[str, Any]) -> Candidate:
    # Precision is for people alone; bundles that were made by hand may lack it.
    precision = str(one.get("precision", ""))
    return Candidate(str(one["engine"]), precision, str(one["model_file"]), _probe(one["probe"]))


def _probe(probe: Mapping[str, Any]) -> Probe:
    return Probe(str(probe["input_file"]), str(probe["expected_file"]), float(probe["max_abs_error"]))
