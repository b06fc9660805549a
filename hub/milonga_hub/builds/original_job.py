"""See what a network from elsewhere makes of a data set, before anything is built of it. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from milonga.inputs import Input
from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Floats
from milonga_compiler.errors import CompilerError
from milonga_compiler.parity import FP32_RELATIVE_ERROR

from milonga_hub.builds.evidence_for_job import made
from milonga_hub.jobs import JobContext, JobError

# The reference evaluator takes seconds for a picture of a detector.
_REFERENCE_PICTURES = 2


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return its accuracy on the validation pictures (None without a data set), and where its outputs on as many as are worth keeping lie.

    Those of the first are the reference back end's, which ONNX Runtime's were found equal to; `unreferenced` is why they are not.
    """
    network, seen, engine = Path(spec["onnx"]), Input.of(spec["input"]), backend("onnxruntime")
    accuracy, count, measure = None, 0, ""
    if spec["data"]:
        # Torch takes seconds to load, and is not needed without pictures.
        from milonga_hub.learning.evaluation import MOST_EXPECTED_BYTES
        from milonga_hub.learning.tasks import opened

        task = opened(spec["data"], seen.size_px, spec["told"])
        count = task.judged_count
        if not count:
            raise JobError("the data set has no validation pictures to judge the network on; add some, or name none")
        judge, first, kept, size_bytes = task.judge(seen, spec["classes"]), made(seen)[:0], list[Floats](), 0
        for part in task.validation(seen):
            context.progress(0.1, f"running it on {count} validation pictures")
            found = engine.run(network, part, spec["threads"])
            judge.add(found)
            if not len(first):
                first = part[:_REFERENCE_PICTURES]
            # What never runs here is known by them: what devices build, and what is compiled for other processors.
            if size_bytes < MOST_EXPECTED_BYTES:
                kept.append(found)
                size_bytes += found.nbytes
        accuracy, measure, outputs = judge.accuracy(), judge.measure, np.concatenate(kept)
    else:
        pictures = made(seen)
        first, outputs = pictures[:_REFERENCE_PICTURES], engine.run(network, pictures, spec["threads"])
    context.progress(0.6, "comparing ONNX Runtime with the reference")
    right, unreferenced = _referenced(network, first, outputs[: len(first)])
    np.save(workdir / "expected.npy", np.concatenate([right, outputs[len(first) :]]))
    return {
        "expected": str((workdir / "expected.npy").absolute()),
        "accuracy": accuracy,
        "count": count,
        "measure": measure,
        "unreferenced": unreferenced,
    }


def _referenced(network: Path, pictures: Floats, outputs: Floats) -> tuple[Floats, str]:
    """Return the reference's outputs; where it cannot run the network those of ONNX Runtime, and why."""
    try:
        right = backend("reference").run(network, pictures, 1)
    except CompilerError as error:
        return outputs, str(error)
    apart, allowed = float(np.abs(right - outputs).max()), FP32_RELATIVE_ERROR * max(1.0, float(np.abs(right).max()))
    if not apart <= allowed:
        raise JobError(
            f"ONNX Runtime and ONNX's reference disagree on the network by {apart:.3g}, {allowed:.3g} allowed: nothing says which"
            " of them is right; export it with another opset"
        )
    return right, ""
