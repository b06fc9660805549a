"""Jobs that are ready begin, fail and end like any other."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

from tests.ready_jobs import READY


def test_a_job_that_fails_says_why_and_ends_as_others_do(tmp_path: Path) -> None:
    done = subprocess.run([*READY.command("build", tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "FileNotFoundError" in done.stderr and "spec.json" in done.stderr
    assert done.stdout == ""


def test_a_job_ends_with_what_stands_in_its_place(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "spec.json")
    with subprocess.Popen([*READY.command("build", tmp_path)]) as placeholder:
        # Opened once the job reads it, which waits then for what comes.
        with (tmp_path / "spec.json").open("wb") as order:
            placeholder.kill()
            gone = select.poll()
            gone.register(order, select.POLLERR)
            assert gone.poll(60_000), "the job still reads"
