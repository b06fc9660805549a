"""Run long work in subprocesses that may be killed at any time and go on where they were.

A job is a folder: spec.json says what to do, the job keeps its own checkpoints beside it, and result.json appears,
whole, when it is done. Running a finished job again returns its result at once, so a restarted hub repeats nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from milonga.ending import die_with_parent
from milonga.waiting import within
from milonga_compiler.errors import CompilerError, DiskFull, in_words, is_full
from milonga_compiler.files import write_atomically

from milonga_hub import counts, room
from milonga_hub.errors import MilongaError
from milonga_hub.traces import Trace, used

KINDS = {
    "train": "milonga_hub.training.job",
    "profile": "milonga_hub.search.profile_job",
    "levels": "milonga_hub.search.levels_job",
    "assess": "milonga_hub.search.assess_job",
    "judge": "milonga_hub.search.judge_job",
    "search": "milonga_hub.search.job",
    "build": "milonga_hub.builds.job",
    "import": "milonga_hub.models.import_job",
    "original": "milonga_hub.builds.original_job",
    "compare": "milonga_hub.builds.compare_job",
    "delta": "milonga_hub.transfers.job",
}

_log = logging.getLogger(__name__)

_WAITING = "the disk is full: make room under {} or where TMPDIR says; it goes on by itself then"

# Who does the job of a folder.
CLAIM = "claim"

# Threads that wait give their core away. On two cores shared with other work, spinning made training seven times slower.
_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
# numpy's threads spin whatever the policy. On two shared cores a second one made the fit of a latency model over 1,000
# networks take 34 s instead of 4 s. Not for training: torch's products are OpenBLAS's too, on ARM.
_NUMPY_THREADS = {"OPENBLAS_NUM_THREADS": "1"}
# glibc gives memory of large tensors back to the kernel each time they are freed, and gets it again page by page: a fifth of a
# training's time. Kept, two epochs of a supernet of digits take 21 s instead of 26 s, and 1.6 GB instead of 1.3 GB.
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}


class JobError(MilongaError):
    """The job cannot succeed, however often it is tried; the message is for the user."""

    reason = "JOB_FAILED"


class JobCrashed(MilongaError):
    """The job's process ended without a result; trying again goes on from its checkpoint."""

    reason = "JOB_CRASHED"


class JobOutOfRoom(JobCrashed):
    """The disk was full; trying again once it is not goes on from the checkpoint."""

    reason = "JOB_OUT_OF_ROOM"


# What a job's process ends with where the disk is full: a result could not be written either.
_OUT_OF_ROOM = 28


@dataclass(frozen=True)
class Progress:
    fraction: float
    message: str
    metrics: dict[str, float]
    #: The machine that does it; "" for the hub's own.
    where: str = ""


# Answers what a job asks of the hub.
OnQuestion = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Workers(Protocol):
    """Where jobs run. Whatever does a job is a process of this machine, which may only watch over one elsewhere."""

    #: So many jobs at a time.
    at_once: int
    #: How long a process that is asked to end may take to end what it began elsewhere; at 0 it is killed.
    ending_seconds: float

    def threads(self, kind: str) -> int:
        """Return how many threads a job of this kind takes where its user does not say."""

    def command(self, kind: str, workdir: Path) -> Sequence[str]:
        """Return the program that does the job in its folder: it says progress in lines of JSON and leaves result.json."""


class LocalWorkers:
    """Jobs run on this machine, one at a time: training and search use all cores."""

    at_once = 1
    ending_seconds = 0.0

    def threads(self, kind: str) -> int:
        return os.cpu_count() or 1

    def command(self, kind: str, workdir: Path) -> Sequence[str]:
        return [sys.executable, "-m", "milonga_hub.jobs", kind, str(workdir)]


LOCAL = LocalWorkers()


class Jobs:
    """The jobs of a hub, which take turns at its workers."""

    def __init__(self, workers: Workers = LOCAL, until_room: Callable[[Path], Awaitable[None]] = room.awaited) -> None:
        self._workers = workers
        #: Returns when a full disk is worth another try; the folder is where a job writes.
        self.until_room = until_room
        self._turns = asyncio.Semaphore(workers.at_once)
        # By the folder that jobs tune into: what two of them wrote at a time would not fit together.
        self._tuned: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def threads(self, kind: str) -> int:
        """Return how many threads a job of this kind takes where its user does not say."""
        return self._workers.threads(kind)

    async def run(
        self,
        kind: str,
        spec: dict[str, Any],
        workdir: Path,
        on_progress: Callable[[Progress], Awaitable[None] | None],
        on_question: OnQuestion | None = None,
    ) -> dict[str, Any]:
        """Return the job's result as `run_job` does, once it is its turn. While the disk is full, it waits for room, and others go on."""
        folder = spec["tuning_database"] if spec.get("tuning_minutes") else ""
        # What asks the hub is done beside it.
        workers = LOCAL if on_question else self._workers
        while True:
            try:
                async with self._tuned[folder] if folder else contextlib.nullcontext(), self._turns:
                    return await run_job(kind, spec, workdir, on_progress, workers, on_question)
            except JobOutOfRoom as error:
                _log.warning("%s: %s", workdir, error)
                waited = on_progress(Progress(0.0, str(error), {}))
                if waited is not None:
                    await waited
                await self.until_room(workdir)


class Claim:
    """That this process does the job of a folder, until another one begins it anew.

    A hub that is stopped for longer than it may lead leaves its job running, while the one that leads by then begins it again.
    """

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / CLAIM
        self._id = uuid.uuid4().hex
        write_atomically(self._path, self._id)

    def demand(self) -> None:
        """End this process where another one has the job."""
        try:
            holds = self._path.read_text(encoding="utf-8") == self._id
        except FileNotFoundError:
            holds = False
        if not holds:
            raise SystemExit("another process has begun this job anew; this one ends")


def claimed(workdir: Path, known: Mapping[str, str]) -> Claim | None:
    """Return the claim to a folder; of several processes that torchrun starts (RANK), the first one has it for all."""
    return Claim(workdir) if known.get("RANK", "0") == "0" else None


class JobContext:
    """What a job sees of the hub: somewhere to say how far it is, and to ask for what only the hub can do."""

    def __init__(self, out: TextIO, answers: TextIO | None = None, claim: Claim | None = None) -> None:
        self._out, self._answers, self._claim = out, answers, claim

    def demand(self) -> None:
        """End this process where another one does the job by now."""
        if self._claim is not None:
            self._claim.demand()

    def progress(self, fraction: float, message: str = "", **metrics: float) -> None:
        """Tell the hub how far the job is (0 to 1) and its newest figures. Ends the process where another one does the job by now."""
        self.demand()
        line: dict[str, Any] = {"kind": "progress", "fraction": float(fraction), "message": message}
        line["metrics"] = {name: float(value) for name, value in metrics.items()}
        line["used"] = used()
        print(json.dumps(line), file=self._out, flush=True)

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the hub's answer, however long that takes. Raises JobError where the hub answers no questions of this job."""
        print(json.dumps({"kind": "question", "question": question}), file=self._out, flush=True)
        line = self._answers.readline() if self._answers is not None else ""
        if not line:
            raise JobError("what runs this job has no way to ask the hub")
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment(kind: str, known: Mapping[str, str]) -> dict[str, str]:
    """Return what a job's process is started with: threads and memory that suit its kind, unless the user said otherwise."""
    return {**_THREADS, **(_KEPT_MEMORY if kind == "train" else _NUMPY_THREADS), **known}


async def run_job(
    kind: str,
    spec: dict[str, Any],
    workdir: Path,
    on_progress: Callable[[Progress], Awaitable[None] | None],
    workers: Workers = LOCAL,
    on_question: OnQuestion | None = None,
) -> dict[str, Any]:
    """Return the job's result, from its folder if it has finished before. `on_question` answers what the job asks.

    Raises JobError where the job said why it cannot succeed, JobCrashed where its process died, JobOutOfRoom where the disk is
    full. Cancelling the awaiting task ends the process.
    """
    try:
        return await _run_job(kind, spec, workdir, on_progress, workers, on_question)
    except OSError as error:
        if is_full(error):
            raise JobOutOfRoom(_WAITING.format(workdir)) from error
        raise


async def _run_job(
    kind: str,
    spec: dict[str, Any],
    workdir: Path,
    on_progress: Callable[[Progress], Awaitable[None] | None],
    workers: Workers,
    on_question: OnQuestion | None,
) -> dict[str, Any]:
    result_path = workdir / "result.json"
    text = json.dumps(spec, sort_keys=True, indent=1)
    spec_path = workdir / "spec.json"
    if result_path.exists() and spec_path.exists() and spec_path.read_text(encoding="utf-8") == text:
        return _read_result(result_path)
    workdir.mkdir(parents=True, exist_ok=True)
    result_path.unlink(missing_ok=True)
    write_atomically(spec_path, text)
    began = time.monotonic()
    with (workdir / "log.txt").open("ab") as log, Trace(workdir) as trace:
        process = await asyncio.create_subprocess_exec(
            *workers.command(kind, workdir),
            stdin=asyncio.subprocess.PIPE if on_question else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=log, limit=1 << 20,
            env=environment(kind, os.environ),
        )  # fmt: skip
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                if on_question is None or not await _answered(line, process, on_question):
                    await _pass_on(line, on_progress, trace)
            code = await process.wait()
        finally:
            await _end(process, workers.ending_seconds)
            counts.job_seconds[kind] += time.monotonic() - began
    if code == _OUT_OF_ROOM and not result_path.exists():
        raise JobOutOfRoom(_WAITING.format(workdir))
    counts.jobs_ended[kind, "succeeded" if result_path.exists() else "failed"] += 1
    if not result_path.exists():
        raise JobCrashed(f"the {kind} job ended with exit code {code}; its log is {workdir / 'log.txt'}")
    return _read_result(result_path)


async def _answered(line: bytes, process: asyncio.subprocess.Process, on_question: OnQuestion) -> bool:
    """Return whether the line is a question, once it is answered."""
    try:
        said = json.loads(line)
        asked = dict(said["question"]) if said["kind"] == "question" else None
    except (ValueError, KeyError, TypeError):
        return False
    if asked is None:
        return False
    answer = await on_question(asked)
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):  # It died meanwhile, as its exit code tells.
        process.stdin.write(json.dumps(answer).encode() + b"\n")
        await process.stdin.drain()
    return True


async def _pass_on(line: bytes, on_progress: Callable[[Progress], Awaitable[None] | None], trace: Trace) -> None:
    try:
        said = json.loads(line)
        where = str(said.get("where", ""))
        progress = Progress(float(said["fraction"]), str(said["message"]), dict(said["metrics"]), where)
    except (ValueError, KeyError, TypeError):
        return  # A library printed to stdout.
    trace.note(said)
    waited = on_progress(progress)
    if waited is not None:
        await waited


async def _end(process: asyncio.subprocess.Process, seconds: float) -> None:
    if process.returncode is None and seconds:
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            process.terminate()
            await within(process.wait(), seconds)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _read_result(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in result:
        path.unlink()  # So that a resumed run tries again.
        raise JobError(result["error"])
    return result


def main() -> int:
    """Run one job in this process: `python -m milonga_hub.jobs KIND WORKDIR`."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the hub, which ends its jobs.
    workdir = Path(sys.argv[2])
    context = JobContext(os.fdopen(os.dup(1), "w"), sys.stdin, claimed(workdir, os.environ))
    os.dup2(2, 1)  # What libraries print goes to the log.
    try:
        perform(sys.argv[1], workdir, context)
    except (OSError, CompilerError) as error:
        if not is_full(error):
            raise
        print(in_words(error) if isinstance(error, OSError) else error, file=sys.stderr)
        return _OUT_OF_ROOM
    return 0


def perform(kind: str, workdir: Path, context: JobContext) -> None:
    """Do the job of a folder and leave its result there, or why there can be none. Raises DiskFull or OSError on a full disk."""
    spec = json.loads((workdir / "spec.json").read_text(encoding="utf-8"))
    job = importlib.import_module(KINDS[kind])
    try:
        result = job.run(spec, workdir, context)
    except DiskFull:
        raise
    except (MilongaError, CompilerError, ImportError) as error:
        # A missing extra is said by its import, with the line that installs it.
        result = {"error": str(error)}
    context.demand()
    write_atomically(workdir / "result.json", json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
