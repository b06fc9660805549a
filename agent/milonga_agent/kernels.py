"""Time kernels that the hub compiled while it tunes. In a process of its own: `python -m milonga_agent.kernels SPEC.json`.

Kernels are machine code, and most of them were never run before: the signature comes first, and each is loaded and run in a process
of its own, which may crash, hang or want too much memory without harm to the others. Prints one line of JSON.
"""

from __future__ import annotations

import base64
import json
import os
import random
import select
import signal
import sys
import time
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Callable

from milonga.ending import die_with_parent
from milonga.tuning_session import read_session, signed_words

from milonga_agent.errors import AgentError, BadBundle, Untrusted
from milonga_agent.limits import Limits
from milonga_agent.profile import Clock, Effort, measure, pinned
from milonga_agent.sensors import read_sensors

_LIST = "kernels.json"
# Kernels take from microseconds to seconds: calls of one are timed together until a clock's steps do not matter.
_BLOCK_SECONDS, _MOST_CALLS = 0.004, 10_000
_BLOCKS = 10
# What holds the CPUs back passes within seconds, or not at all.
_COOL_SECONDS = 10.0
# More than any network's kernel, and not so much that a list made in bad faith fills the memory.
_MOST_KERNELS = 1000


def verify(session: bytes, session_digest: str, kernels_digest: str, signature: bytes, now: float) -> None:
    """Return if the session's key has signed the kernels, and the session has not ended. Raises Untrusted.

    That the session itself may be trusted is for others to say: trust.py.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        said = read_session(session)
        key = serialization.load_pem_public_key(said.public_key.encode("ascii"))
    except ValueError as error:
        raise Untrusted(f"the kernels cannot be followed to a key: {error}") from error
    if now >= said.ends_at:
        raise Untrusted("the tuning session that the kernels belong to has ended; the hub begins another by itself")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Untrusted("the tuning session's key is of another kind than it may be")
    try:
        key.verify(signature, signed_words(session_digest, kernels_digest), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise Untrusted("the kernels are not signed by the key of their tuning session") from error


def unpack(archive: Path, folder: Path) -> list[dict[str, Any]]:
    """Write the archive's libraries into the folder and return what its list says of each. Raises BadBundle."""
    try:
        with zipfile.ZipFile(str(archive)) as packed:
            listed: list[dict[str, Any]] = json.loads(packed.read(_LIST))
            if len(listed) > _MOST_KERNELS:
                raise ValueError(f"{len(listed)} kernels at once are too many")
            for number, one in enumerate(listed):
                # Under names of our own: the archive's lead nowhere.
                library = folder / f"{number}.so"
                library.write_bytes(packed.read(one["file"]))
                one["library"] = library
                one["arguments"] = [(str(each["dtype"]), tuple(map(int, each["shape"]))) for each in one["arguments"]]
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise BadBundle(f"the kernels cannot be unpacked: {error!r}") from error
    return listed


def time_call(call: Callable[[], object], seconds: float, cpus: Sequence[int], clock: Clock = Clock()) -> float:
    """Return the median of one call in milliseconds, taken as models are measured: warm, and again where the CPUs were held back."""
    call()
    began = clock.now()
    call()
    once = max(1e-9, clock.now() - began)
    calls = max(1, min(_MOST_CALLS, round(_BLOCK_SECONDS / once)))

    def block() -> None:
        for _ in range(calls):
            call()

    effort = Effort(1, 3, _BLOCKS, seconds, _COOL_SECONDS)
    measured = measure([block], effort, partial(read_sensors, cpus), clock)
    return median(measured.series.times[0]) / calls


def apart(work: Callable[[], dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return what the work says, done in a process of its own; why there is nothing, where that crashed or took longer."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            die_with_parent()
            os.close(reading)
            try:
                said = work()
            except Exception as error:  # Kernels that do not fit what they are given raise TVM's own.
                said = {"error": f"{type(error).__name__}: {error}"[:500]}
            os.write(writing, json.dumps(said).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    ready: list[int] = []
    try:
        ready, _, _ = select.select([reading], [], [], seconds)
        text = os.read(reading, 1 << 16) if ready else b""
    finally:
        os.close(reading)
        if not ready:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if not ready:
        return {"error": f"it did not end within {seconds:g} s"}
    if not text:
        return {
            "error": f"it crashed ({signal.Signals(os.WTERMSIG(status)).name})" if os.WIFSIGNALED(status) else "it died"
        }
    said = json.loads(text)
    assert isinstance(said, dict)
    return said


def _kernel(listed: dict[str, Any], spec: dict[str, Any], cpus: Sequence[int]) -> dict[str, Any]:
    """Return the kernel's time."""
    Limits(spec["threads"], (), spec["memory_bytes"]).apply_memory()
    import tvm_ffi

    from milonga_agent.runtimes.tvm import aligned

    made = random.Random(0)
    given = []
    for dtype, shape in listed["arguments"]:
        array = aligned(shape, dtype)
        # Neither zeros, which some processors are faster with, nor so small that they are slow.
        array[...] = made.random() + 0.5
        given.append(tvm_ffi.from_dlpack(array))
    main = tvm_ffi.load_module(str(listed["library"]))["main"]
    return {"ms": time_call(lambda: main(*given), spec["seconds_each"], cpus)}


def run(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return {"ms"} or {"error"} of each kernel. Raises AgentError where none may or can be run."""
    session = Path(spec["session"]).read_bytes()
    signature = base64.b64decode(spec["signature"])
    verify(session, spec["session_digest"], spec["kernels_digest"], signature, time.time())
    listed = unpack(Path(spec["kernels"]), Path(spec["folder"]))
    with pinned(spec["threads"]) as cpus:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # Kernels need none of numpy's threads, and forks lose them.
        from milonga_agent.runtimes.tvm import load_runtime

        load_runtime(spec["threads"])
        # In any order but the one that they were thought of in: heat and other work fall on all alike.
        order = list(range(len(listed)))
        random.Random(spec["id"]).shuffle(order)
        found: list[dict[str, Any]] = [{"error": "no time was left for it"} for _ in listed]
        end = time.monotonic() + spec["max_seconds"]
        for number in order:
            left = end - time.monotonic()
            if left > 0:
                work = partial(_kernel, listed[number], spec, cpus)
                found[number] = apart(work, min(left, spec["max_seconds_each"]))
    return found


def main() -> int:
    """Time what the JSON file says."""
    die_with_parent()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        said: dict[str, Any] = {"kernels": run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))}
    except (AgentError, OSError, ValueError, MemoryError) as error:
        said = {"error": str(error) or repr(error)}
    print(json.dumps(said), file=out, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
