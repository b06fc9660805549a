"""Run engines in processes of their own, with limits on time and memory: a crash costs one build and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from milonga_compiler import errors
from milonga_compiler.backends.base import Backend, BuiltModel, Floats, Variants
from milonga_compiler.embedding import embed
from milonga_compiler.engines import ENGINES
from milonga_compiler.environments import interpreter, usable
from milonga_compiler.errors import BuildFailed, CompilerError, EngineDied, RunFailed, UnsupportedOperators
from milonga_compiler.lending import lent
from milonga_compiler.network import Network, read_network
from milonga_compiler.target import Target
from milonga_compiler.tuning import Step, Tuning
from milonga_compiler.worker import BOOTSTRAP

_PACKAGE = Path(__file__).parent
# How much of the log an error quotes.
_TAIL_LINES, _TAIL_LETTERS = 4, 600
# A turn of tuning that was begun because it would fit may take so much longer; then it is ended.
_GRACE_SECONDS = 30.0
# Before the first: importing TVM, and timing all kernels as they are, takes minutes on busy machines and slow devices.
_READING_SECONDS = 300.0
_OUT_OF_MEMORY = (
    "bad_alloc",
    "cannot allocate",
    "out of memory",
    "memoryerror",
    "bad allocation",
    "failed to allocate",
)


@dataclass(frozen=True)
class Limits:
    """What one variant of a build, and one run, may take; `memory_bytes` 0 means no limit.

    Half an hour builds any network of an edge device several times over.
    """

    build_seconds: float = 1800.0
    run_seconds: float = 600.0
    memory_bytes: int = 0


def default_limits() -> Limits:
    """Return limits that leave a quarter of this machine's memory to everything else."""
    return Limits(memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4)


class IsolatedBackend(Backend):
    """The back end of an engine, with every build and every run in a process of its own.

    What the engine prints is appended to `log`; without one it is only quoted in errors.
    """

    def __init__(self, name: str, limits: Limits, log: Path | None = None) -> None:
        """Raises EngineMissing, with the line that adds it, where no interpreter here has the engine."""
        self.name = name
        self._limits, self._log = limits, log
        self._interpreter = interpreter(name)

    def build(self, onnx_path: Path, target: Target, folder: Path, calibration: Floats | None) -> Variants:
        with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
            given = None
            if calibration is not None:
                given = str(Path(scratch) / "calibration.npy")
                np.save(given, calibration)
            request = {"do": "build", "onnx": str(onnx_path.absolute()), "folder": str(folder.absolute())}
            wanted = {"target": str(target), "architecture": target.architecture, "calibration": given}
            database = str(self.database.absolute()) if self.database else None
            with self._asked({**request, **wanted, "database": database}) as process:
                try:
                    while True:
                        answer = process.answer(f"building {target}", self._limits.build_seconds, BuildFailed)
                        if "variant" not in answer:
                            return
                        yield BuiltModel(**answer["variant"])
                        process.tell({"do": "next"})
                except UnsupportedOperators as error:
                    able = knowing(read_network(onnx_path), self.name)
                    who = (
                        f"these engines know the whole network: {', '.join(able)}"
                        if able
                        else "no engine here knows it whole"
                    )
                    raise UnsupportedOperators(f"{error}; {who}", error.operators) from error

    def tune(self, onnx_path: Path, target: Target, tuning: Tuning) -> Iterator[Step]:
        request = {"do": "tune", "onnx": str(onnx_path.absolute()), "target": str(target), "threads": tuning.threads}
        wanted = {"architecture": target.architecture, "database": str(tuning.database.absolute())}
        scratch = tempfile.mkdtemp(prefix="milonga-")
        asked = {**request, **wanted, "budget": asdict(tuning.budget), "scratch": scratch}
        asked["on_device"] = tuning.timer is not None
        try:
            with self._asked(asked) as process:
                yield from self._steps(process, f"tuning for {target}", tuning)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _steps(self, process: _Process, doing: str, tuning: Tuning) -> Iterator[Step]:
        """Yield what the process tells, and end it where it takes longer than it may; have a device time what it asks for."""
        began, waited, budget, step = time.monotonic(), 0.0, tuning.budget, None
        while True:
            asked, allowed = time.monotonic(), self._limits.build_seconds
            if budget.seconds is not None:
                allowed = max(
                    1.0, began + waited + budget.seconds + (_GRACE_SECONDS if step else _READING_SECONDS) - asked
                )
            try:
                answer = process.answer(doing, allowed, BuildFailed)
            except EngineDied:
                if step is None or time.monotonic() - asked < allowed:
                    raise
                seconds = time.monotonic() - began - waited
                yield replace(step, seconds=seconds, ended="its last turn took longer than was left")
                return
            if "time" in answer and tuning.timer is not None:
                times = tuning.timer(Path(answer["time"]))
                waited += times.waited_seconds
                process.tell({"times": times.as_json()})
                continue
            if "step" not in answer:
                return
            step = Step.from_json(answer["step"])
            yield step
            process.tell({"do": "next"})

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        return self._run(model_file, inputs, threads, whole=False)[0]

    def outputs(self, model_file: Path, inputs: Floats, threads: int) -> list[Floats]:
        return self._run(model_file, inputs, threads, whole=True)

    def _run(self, model_file: Path, inputs: Floats, threads: int, whole: bool) -> list[Floats]:
        with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
            given, made = Path(scratch) / "inputs.npy", Path(scratch) / "outputs.npz"
            np.save(str(given), inputs)
            request = {"do": "run", "model_file": str(model_file.absolute()), "threads": threads, "whole": whole}
            with self._asked({**request, "inputs": str(given), "outputs": str(made)}) as process:
                process.answer(f"running {model_file.name}", self._limits.run_seconds, RunFailed)
            with np.load(str(made)) as outputs:
                return [outputs[name] for name in outputs.files]

    def embed(self, model_file: Path) -> bool:
        if ENGINES[self.name].takes_onnx:
            # It is ONNX that is written, without the engine.
            return embed(model_file)
        with self._asked({"do": "embed", "model_file": str(model_file.absolute())}) as process:
            done = process.answer(f"reading {model_file.name}", self._limits.build_seconds, BuildFailed)["done"]
        return bool(done)

    def unsupported(self, network: Network) -> frozenset[str]:
        with self._asked({"do": "unsupported", "onnx": str(network.path.absolute())}) as process:
            return frozenset(process.answer("reading the network", self._limits.run_seconds, BuildFailed)["done"])

    def _variants(self, *_: object) -> Iterator[BuiltModel]:
        raise NotImplementedError("build() asks the process")

    def _accept(self, *_: object) -> None:
        raise NotImplementedError("unsupported() asks the process")

    def _asked(self, request: dict[str, Any]) -> _Process:
        whole = {**request, "engine": self.name, "plugin": lent(self.name), "memory_bytes": self._limits.memory_bytes}
        return _Process(self.name, self._interpreter, whole, self._log)


def knowing(network: Network, but: str = "") -> list[str]:
    """Return the engines, but for one, that are usable here and know all of a network's operators: they are asked."""
    able = []
    for name in ENGINES:
        if name == but or not usable(name):
            continue
        with contextlib.suppress(CompilerError):
            if not IsolatedBackend(name, default_limits()).unsupported(network):
                able.append(name)
    return able


class _Process:
    """One worker, from its request to its end; leaving the context ends it and all that it started."""

    def __init__(self, engine: str, python: str, request: dict[str, Any], log: Path | None) -> None:
        self._engine, self._memory_bytes = engine, int(request["memory_bytes"])
        self._kept = log
        self._log: IO[bytes] = log.open("ab") if log else tempfile.TemporaryFile()  # noqa: SIM115
        self._began = self._log.tell()
        self._process = subprocess.Popen(
            [python, "-c", BOOTSTRAP, str(_PACKAGE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._rest = b""
        self.tell(request)

    def __enter__(self) -> _Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._log.close()

    def tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # The answer tells how it died.
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self, doing: str, seconds: float, unnamed: type[CompilerError]) -> dict[str, Any]:
        """Return the next answer. Raises the error it names, `unnamed` for the engine's own, or EngineDied."""
        line = self._line(doing, seconds)
        if line is None:
            raise EngineDied(f"{self._engine} {self._death()} while {doing}{self._tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" not in answer:
            return answer
        message, kind = str(answer["message"]), getattr(errors, answer["error"], unnamed)
        if kind is UnsupportedOperators:
            raise UnsupportedOperators(message, answer["operators"])
        if kind is EngineDied or _mentions_memory(message):
            raise EngineDied(
                f"{self._engine} ran out of memory ({self._allowed()} allowed) while {doing}{self._tail()}"
            )
        raise kind(message if answer["error"] else f"{self._engine} failed while {doing}: {message}")

    def _line(self, doing: str, seconds: float) -> bytes | None:
        """Return the next line, or None where the process ended without one. Raises EngineDied when time is up."""
        out = self._process.stdout
        assert out is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self._kill()
                    raise EngineDied(f"{self._engine} was ended after {seconds:g} s of {doing}{self._tail()}")
                data = os.read(out.fileno(), 65536)
                if not data:
                    return None
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _death(self) -> str:
        code = self._process.wait()
        if _mentions_memory(self._printed()):
            return f"ran out of memory ({self._allowed()} allowed)"
        if code == -signal.SIGKILL:
            return "was killed, most likely because the machine had no memory left,"
        return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended by itself (exit code {code})"

    def _allowed(self) -> str:
        return f"{self._memory_bytes / 2**20:.0f} MiB" if self._memory_bytes else "all"

    def _printed(self) -> str:
        """Return what this process has printed, not what was in the log before."""
        if self._kept is None:
            self._log.seek(0)
            return self._log.read().decode(errors="replace")
        with self._kept.open("rb") as file:
            file.seek(self._began)
            return file.read().decode(errors="replace")

    def _tail(self) -> str:
        lines = [line.strip() for line in self._printed().splitlines() if line.strip()][-_TAIL_LINES:]
        said = " | ".join(lines)[-_TAIL_LETTERS:]
        kept = f" (all of it in {self._kept})" if self._kept else ""
        return f"; it last said: {said}{kept}" if said else ""

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _mentions_memory(text: str) -> bool:
    return any(sign in text.lower() for sign in _OUT_OF_MEMORY)
