"""Take a file from elsewhere apart and write its network as the hub's own are. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from milonga_compiler.importing import Told, adopt

from milonga_hub.jobs import JobContext, JobError

_EXPORT_SECONDS = 600
# What the process that loads a checkpoint gets to know of this one's environment.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return what the network is; it lies in network.onnx beside the result."""
    file = Path(spec["file"])
    if file.suffix == ".pt":
        context.progress(0.1, "exporting it with ultralytics")
        file = _exported(file, workdir, spec["size_px"])
    context.progress(0.6, "reading the network and proving that it stays what it is")
    told = Told(
        classes=tuple(spec["classes"]),
        mean=tuple(spec["mean"]),
        std=tuple(spec["std"]),
        resize=spec["resize"],
        size_px=spec["size_px"],
    )
    return asdict(adopt(file, workdir / "network.onnx", told))


def _exported(checkpoint: Path, workdir: Path, size_px: int) -> Path:
    """Return the ONNX file that ultralytics makes of its checkpoint, in a process that knows none of the hub's secrets.

    That process is the hub's user all the same: whoever sends a checkpoint can do what the hub can.
    """
    command = [sys.executable, "-m", "milonga_hub.learning.ultralytics_export", str(checkpoint.absolute()), str(size_px)]  # fmt: skip
    known = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        done = subprocess.run(
            command,
            cwd=workdir,
            env={**known, "HOME": str(workdir.absolute()), "YOLO_CONFIG_DIR": str(workdir.absolute())},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_EXPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise JobError(f"ultralytics did not export {checkpoint.name} within {_EXPORT_SECONDS} s") from error
    made = checkpoint.with_suffix(".onnx")
    if done.returncode or not made.exists():
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise JobError(f"ultralytics cannot export {checkpoint.name}: {said}")
    return made
