"""Build an engine of this device in a process of its own: `python -m milonga_agent.building SPEC.json`.

Prints one line of JSON: what was made, how far its outputs on the probe are from those expected and how much of what the
network decides it decides alike, or an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from milonga.ending import die_with_parent

from milonga_agent.errors import AgentError, EngineMissing
from milonga_agent.files import sync_folder


def main() -> int:
    """Build what the JSON file says. The exit code says nothing: the line does."""
    die_with_parent()
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        said = _built(spec)
    except (AgentError, OSError, ValueError, MemoryError) as error:
        said = {"error": str(error) or repr(error)}
    print(json.dumps(said))
    return 0


def _built(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the first variant of the build that computes what it should, or the last with why it does not."""
    try:
        from milonga_compiler.engines import Precision
        from milonga_compiler.errors import CompilerError
        from milonga_compiler.isolated import IsolatedBackend, Limits, default_limits
        from milonga_compiler.target import Target
    except ImportError as error:
        raise EngineMissing(
            f"this device cannot build for {spec['engine']}: {error}; run: pip install 'milonga-compiler[{spec['engine']}]'"
        ) from error
    import numpy as np

    memory_bytes = int(spec["memory_bytes"]) or default_limits().memory_bytes
    limits = Limits(build_seconds=spec["max_seconds"], memory_bytes=memory_bytes)
    folder = Path(spec["folder"])
    calibration = np.load(spec["calibration"]).astype(np.float32) if spec["calibration"] else None
    said: dict[str, Any] = {"error": f"{spec['engine']} made nothing of the network"}
    try:
        engine = IsolatedBackend(spec["engine"], limits, Path(spec["log"]))
        target = Target(spec["engine"], Precision(spec["precision"]))
        with contextlib.closing(engine.build(Path(spec["onnx"]), target, folder, calibration)) as variants:
            for variant in variants:
                said = {"model_file": variant.model_file, "files": variant.files, "note": variant.note}
                said.update(_proved(engine, folder / variant.model_file, spec))
                if not said["objection"]:
                    break
    except CompilerError as error:
        if "objection" not in said:
            return {"error": str(error)}
    if "objection" in said:
        _tidy(folder, said["files"])
    return said


def _tidy(folder: Path, kept: list[str]) -> None:
    """Remove variants that were not taken, and make what is kept outlast a power cut."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if str(path.relative_to(folder)) in kept:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            path.unlink()
    sync_folder(folder)


def _proved(engine: Any, model: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Return how far the outputs on the probe are from those expected, how much is decided alike, and what speaks against the build."""
    import numpy as np
    from milonga_compiler.errors import CompilerError

    expected = np.load(spec["expected"])
    try:
        outputs = engine.run(model, np.load(spec["input"]), spec["threads"])
    except CompilerError as error:
        return {"objection": f"it was built and does not run: {error}", "max_abs_error": None}
    if outputs.shape != expected.shape or not np.isfinite(outputs).all():
        return {"objection": f"it gave {outputs.shape} values, some not finite, on the probe", "max_abs_error": None}
    distance = float(np.abs(outputs - expected).max())
    allowed = float(spec["max_abs_error"])
    wrong = f"its outputs differ by up to {distance:.3g} from those expected, {allowed:.3g} allowed"
    if distance > allowed or spec["proof"] is None:
        return {"objection": wrong if distance > allowed else "", "max_abs_error": distance}
    try:
        return {"max_abs_error": distance, **_held_to_decisions(engine, model, spec)}
    except CompilerError as error:
        return {"objection": f"it does not run on the pictures that prove it: {error}", "max_abs_error": distance}


def _held_to_decisions(engine: Any, model: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Return how much of what the network decides the build decides too, and what speaks against it."""
    import numpy as np
    from milonga_compiler.decisions import agreement

    proof = spec["proof"]
    wanted = json.loads(Path(proof["decisions"]).read_text(encoding="utf-8"))
    manifest = json.loads(Path(spec["manifest"]).read_text(encoding="utf-8"))
    pictures = np.load(proof["input"]).astype(np.float32)
    outputs = engine.run(model, pictures, spec["threads"])
    if not np.isfinite(outputs).all():
        return {"objection": "some of its outputs are not finite numbers", "agreement": None}
    share, least = agreement(wanted, outputs, manifest), proof["least_agreement"]
    what = "boxes" if "boxes" in wanted else "classes"
    wrong = f"{share:.1%} of the {what} on {len(pictures)} pictures are those of the network, {least:.0%} are asked for"
    return {"objection": wrong if share < least else "", "agreement": share}


if __name__ == "__main__":
    sys.exit(main())
