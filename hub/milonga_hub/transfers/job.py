"""Make the smallest delta to one file from any of some others. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from milonga.deltas import apply

from milonga_hub.jobs import JobContext, JobError
from milonga_hub.transfers.making import make


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return which base the delta begins from, its digest and its size; it lies in the folder as "delta"."""
    # Whatever else the hub does comes first.
    os.nice(10)
    target = Path(spec["target"])
    best: tuple[str, bytes] | None = None
    for number, (digest, path) in enumerate(spec["bases"].items()):
        context.progress(number / len(spec["bases"]), f"from {digest}")
        made = make(Path(path), target)
        if best is None or len(made) < len(best[1]):
            best = digest, made
    if best is None:
        raise JobError("there is nothing to make a delta from")
    base, content = best
    place = workdir / "delta"
    with place.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _prove(place, Path(spec["bases"][base]), target, workdir / "proof")
    return {"base": base, "digest": "sha256:" + hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def _prove(delta: Path, base: Path, target: Path, proof: Path) -> None:
    """Apply the delta as devices do. Raises JobError unless it makes the target."""
    with proof.open("wb") as file:
        apply(delta, base, file)
    with proof.open("rb") as made, target.open("rb") as wanted:
        same = hashlib.file_digest(made, "sha256").digest() == hashlib.file_digest(wanted, "sha256").digest()
    proof.unlink()
    if not same:
        raise JobError(f"the delta from {base.name} does not make {target.name}")
