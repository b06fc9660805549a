"""The process that an engine runs in. It is started by isolated.py and speaks JSON lines.

Down (stdin): one request, {"do": "build" | "tune" | "run" | "embed" | "unsupported", ...}; then {"do": "next"} for each further variant or step,
and {"times": {...}} for kernels to time.
Up (stdout): {"variant": {...}}, {"step": {...}}, {"time": FILE}, {"done": ...}, or {"error": NAME, "message": ..., "operators": [...]}.
What the engine itself prints goes to stderr, which is the log.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milonga_compiler.timing import Times

# What the parent must start an interpreter with (-c): another environment does not have this package, and may take only
# this package from here, never the versions of others that lie beside it.
BOOTSTRAP = """
import importlib.util, sys
from pathlib import Path
place = Path(sys.argv.pop(1))
spec = importlib.util.spec_from_file_location(
    "milonga_compiler", place / "__init__.py", submodule_search_locations=[str(place)]
)
module = sys.modules["milonga_compiler"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from milonga_compiler.worker import main
sys.exit(main())
"""

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> int:
    """Answer one request. The exit code says nothing: the answer does."""
    _die_with_parent()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print goes to the log.
    request = json.loads(sys.stdin.readline())
    if request["memory_bytes"]:
        # Private writable memory, as the agent's limits.py has it: files that are only mapped do not count.
        resource.setrlimit(resource.RLIMIT_DATA, (request["memory_bytes"], request["memory_bytes"]))
    try:
        for answer in _answers(request, out):
            _say(out, answer)
            if "done" not in answer and not sys.stdin.readline():
                break
    except MemoryError:
        _say(out, {"error": "EngineDied", "message": "it ran out of memory"})
    except Exception as error:  # Engines raise what they like.
        traceback.print_exc()
        _say(out, _described(error))
    return 0


def _answers(request: dict[str, Any], out: Any) -> Iterator[dict[str, Any]]:
    import numpy as np

    from milonga_compiler.backends import in_process
    from milonga_compiler.lending import take
    from milonga_compiler.network import read_network
    from milonga_compiler.target import Target
    from milonga_compiler.tuning import Budget, Tuning

    take(request["engine"], request["plugin"])
    engine = in_process(request["engine"])
    if request["do"] == "build":
        calibration = np.load(request["calibration"]) if request["calibration"] else None
        target = Target.parse(request["target"], request["architecture"])
        engine.database = Path(request["database"]) if request["database"] else None
        for variant in engine.build(Path(request["onnx"]), target, Path(request["folder"]), calibration):
            yield {"variant": vars(variant)}
        yield {"done": None}
    elif request["do"] == "tune":
        # Schedules are built there, and what is left when this process is ended goes with the folder.
        os.environ["TMPDIR"] = tempfile.tempdir = request["scratch"]
        target = Target.parse(request["target"], request["architecture"])
        timer = partial(_timed, out) if request["on_device"] else None
        tuning = Tuning(Path(request["database"]), Budget(**request["budget"]), request["threads"], timer)
        for step in engine.tune(Path(request["onnx"]), target, tuning):
            yield {"step": step.as_json()}
        yield {"done": None}
    elif request["do"] == "run":
        given = (Path(request["model_file"]), np.load(request["inputs"]), request["threads"])
        made = engine.outputs(*given) if request["whole"] else [engine.run(*given)]
        np.savez(request["outputs"], *(np.asarray(one, dtype=np.float32) for one in made))
        yield {"done": None}
    elif request["do"] == "embed":
        yield {"done": engine.embed(Path(request["model_file"]))}
    else:
        yield {"done": sorted(engine.unsupported(read_network(Path(request["onnx"]))))}


def _timed(out: Any, archive: Path) -> Times:
    """Ask for the times of kernels on a device, in the middle of a tuning."""
    from milonga_compiler.timing import Times

    _say(out, {"time": str(archive)})
    return Times.from_json(json.loads(sys.stdin.readline())["times"])


def _described(error: Exception) -> dict[str, Any]:
    from milonga_compiler.errors import CompilerError, in_words, is_full

    if isinstance(error, CompilerError):
        operators = getattr(error, "operators", ())
        return {"error": type(error).__name__, "message": str(error), "operators": list(operators)}
    if isinstance(error, OSError):
        return {"error": "DiskFull" if is_full(error) else "", "message": in_words(error)}
    return {"error": "", "message": f"{type(error).__name__}: {error}"}


def _say(out: Any, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=out, flush=True)


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended before. This process is of a group of its own, and in a container process 1 may be its parent.
        watched = select.poll()
        watched.register(0, select.POLLHUP)
        if watched.poll(0):
            os._exit(1)
