"""A disk that is full ends no run and refuses no build: the job waits, and goes on by itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_compiler.errors import DiskFull, is_full
from milonga_hub import room
from milonga_hub.jobs import JobCrashed, JobOutOfRoom, Jobs, LocalWorkers, Progress, run_job

# Does what a job's process does, with a job whose disk is full while the file "full" is there.
_PROGRAM = """
import sys, types
from pathlib import Path
from milonga_hub import jobs

def run(spec, workdir, context):
    if (workdir / "full").exists():
        if spec["by"] == "engine":
            from milonga_compiler.errors import DiskFull
            raise DiskFull("an engine had no room")
        with open("/dev/full", "w") as file:
            file.write("more than there is room for")
    if spec["by"] == "nothing":
        raise SystemExit(7)
    return {"done": spec["by"]}

job = sys.modules["a_job"] = types.ModuleType("a_job")
job.run = run
jobs.KINDS["build"] = "a_job"
sys.exit(jobs.main())
"""

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")


class FullDisk(LocalWorkers):
    def command(self, kind: str, workdir: Path) -> Sequence[str]:
        return [sys.executable, "-c", _PROGRAM, kind, str(workdir)]


@pytest.mark.parametrize("by", ["job", "engine"])
def test_a_job_goes_on_once_there_is_room(by: str, tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "full").touch()

    async def made_room(workdir: Path) -> None:
        assert told and "the disk is full" in told[-1] and str(workdir) in told[-1]
        (workdir / "full").unlink()

    jobs = Jobs(FullDisk(), made_room)

    async def story() -> None:
        result = await jobs.run("build", {"by": by}, tmp_path, lambda progress: told.append(progress.message))
        assert result == {"done": by}

    asyncio.run(story())
    assert len(told) == 1


def test_others_take_their_turn_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "full").touch()

    async def story() -> None:
        waiting, may_go_on = asyncio.Event(), asyncio.Event()

        async def made_room(workdir: Path) -> None:
            waiting.set()
            await may_go_on.wait()
            (workdir / "full").unlink()

        jobs = Jobs(FullDisk(), made_room)
        one = asyncio.create_task(jobs.run("build", {"by": "one"}, tmp_path / "one", _unheard))
        await waiting.wait()
        assert await jobs.run("build", {"by": "two"}, tmp_path / "two", _unheard) == {"done": "two"}
        assert not one.done()
        may_go_on.set()
        assert await one == {"done": "one"}

    asyncio.run(story())


def test_what_waits_for_no_room_is_told_why_it_ended(tmp_path: Path) -> None:
    (tmp_path / "full").touch()
    with pytest.raises(JobOutOfRoom, match="make room under"):
        asyncio.run(run_job("build", {"by": "job"}, tmp_path, _unheard, FullDisk()))


def test_a_crash_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(JobCrashed) as raised:
        asyncio.run(run_job("build", {"by": "nothing"}, tmp_path, _unheard, FullDisk()))
    assert not isinstance(raised.value, JobOutOfRoom)


def _unheard(progress: Progress) -> None:
    pass


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.floats(0, 599))
def test_it_is_tried_again_where_somebody_made_room(before: int, now: int, seconds: float) -> None:
    assert room.enough({"/a": before}, {"/a": now}, seconds) == (now - before >= 64 << 20)
    assert room.enough({"/a": before}, {"/a": now}, 600.0)


def test_room_is_looked_for_where_jobs_write_even_before_their_folder_is_there(tmp_path: Path) -> None:
    assert all(count > 0 for count in room.free(tmp_path / "not" / "yet").values())


@pytest.mark.parametrize(
    ("error", "full"),
    [(OSError(28, "No space left on device"), True), (OSError(2, "no file"), False), (DiskFull(""), True)],
)
def test_full_disks_are_told_from_other_trouble(error: Exception, full: bool) -> None:
    assert is_full(error) is full
