"""Jobs share the machine with the hub, its agents and each other."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from milonga_hub import jobs
from milonga_hub.jobs import Claim, JobContext, Jobs, LocalWorkers, Progress, claimed, environment, run_job


def _threads(kind: str) -> int:
    """Return how many threads a process of this kind has once numpy is there."""
    count = "import numpy, psutil; print(psutil.Process().num_threads())"
    known = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", count], env=environment(kind, known), capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_numpy_in_a_job_takes_one_thread() -> None:
    assert _threads("search") == 1


def test_what_the_user_sets_is_kept_and_training_takes_what_it_is_given() -> None:
    assert environment("search", {"OPENBLAS_NUM_THREADS": "4"})["OPENBLAS_NUM_THREADS"] == "4"
    assert "OPENBLAS_NUM_THREADS" not in environment("train", {})


def test_a_build_begins_without_what_stores_rows() -> None:
    code = "import sys, milonga_hub.builds.job; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, "jobs never touch the database"


def _page_faults(kind: str) -> int:
    """Return how often a process of this kind asks the kernel for a page while it takes and frees 64 MB twenty times."""
    code = (
        "import resource\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): bytearray(b'1') * (64 << 20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    known = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(kind, known), capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_training_keeps_the_memory_of_freed_tensors_for_the_next_ones() -> None:
    assert _page_faults("train") < _page_faults("search") / 5


class _Two(LocalWorkers):
    """Two at a time, which do what a program says; it finds its job's folder in sys.argv[1]."""

    at_once = 2

    def __init__(self, program: str) -> None:
        self._program = f"import json, sys\nfrom pathlib import Path\njob = Path(sys.argv[1])\n{program}"

    def command(self, kind: str, workdir: Path) -> Sequence[str]:
        return [sys.executable, "-c", self._program, str(workdir)]


def _do(program: str, spec: dict[str, object], folder: Path) -> list[dict[str, object]]:
    async def both() -> list[dict[str, object]]:
        jobs = Jobs(_Two(program))
        both = (jobs.run("build", spec, folder / name, lambda _: None) for name in ("a", "b"))
        return list(await asyncio.gather(*both))

    return asyncio.run(both())


@pytest.mark.timeout(60)
def test_as_many_jobs_run_at_a_time_as_their_workers_take(tmp_path: Path) -> None:
    meet = """
while not all((job.parent / name / "spec.json").exists() for name in "ab"):
    pass
(job / "result.json").write_text("{}")
"""
    assert _do(meet, {}, tmp_path) == [{}, {}]


def test_jobs_that_tune_into_one_folder_take_turns(tmp_path: Path) -> None:
    alone = """
others = [one for one in job.parent.glob("*/spec.json") if not (one.parent / "result.json").exists()]
(job / "result.json").write_text(json.dumps({"at work": len(others)}))
"""
    spec = {"tuning_minutes": 1.0, "tuning_database": str(tmp_path / "tuned")}
    assert _do(alone, spec, tmp_path) == [{"at work": 1}, {"at work": 1}]


_ASKING = """
from milonga_hub.jobs import JobContext, JobError
context, said = JobContext(sys.stdout, sys.stdin), []
for number in (1, 2):
    context.progress(number / 2, "asking")
    try:
        said.append(context.ask({"number": number}))
    except JobError as error:
        said.append(str(error))
(job / "result.json").write_text(json.dumps({"said": said}))
"""


def test_a_job_asks_the_hub_and_goes_on_with_its_answers(tmp_path: Path) -> None:
    heard: list[float] = []

    async def answer(question: dict[str, Any]) -> dict[str, Any]:
        return {"twice": 2 * question["number"]}

    def hear(progress: Progress) -> None:
        heard.append(progress.fraction)

    asked = run_job("build", {}, tmp_path, hear, _Two(_ASKING), answer)
    assert asyncio.run(asked) == {"said": [{"twice": 2}, {"twice": 4}]} and heard == [0.5, 1.0]


def test_a_job_that_nobody_answers_is_told_so(tmp_path: Path) -> None:
    done = asyncio.run(run_job("build", {}, tmp_path, lambda progress: None, _Two(_ASKING)))
    assert done == {"said": ["what runs this job has no way to ask the hub"] * 2}


def test_processes_that_train_together_do_not_take_the_job_from_each_other(tmp_path: Path) -> None:
    first = claimed(tmp_path, {"RANK": "0"})
    assert first is not None and claimed(tmp_path, {"RANK": "1"}) is None
    first.demand()


def test_a_job_that_was_begun_anew_ends_where_its_hub_left_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    left = JobContext(out, claim=Claim(tmp_path))
    left.progress(0.1, "epoch 1 of 2")
    Claim(tmp_path)
    with pytest.raises(SystemExit, match="begun this job anew"):
        left.progress(0.5, "epoch 2 of 2")
    assert "epoch 2" not in out.getvalue()

    class Done:
        @staticmethod
        def run(*_: object) -> dict[str, object]:
            return {}

    (tmp_path / "spec.json").write_text("{}")
    monkeypatch.setattr("importlib.import_module", lambda name: Done)
    with pytest.raises(SystemExit):
        jobs.perform("train", tmp_path, left)
    assert not (tmp_path / "result.json").exists()
