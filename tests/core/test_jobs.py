"""Jobs share the machine with the hub, its agents and each other."""

from __future__ import annotations

import os
import subprocess
import sys

from milonga_hub.jobs import environment


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
