"""What jobs tell of themselves, kept beside them."""

from __future__ import annotations

import json
from pathlib import Path

from milonga_hub.traces import NAME, Trace, traces, used


def test_a_job_says_what_it_took_and_its_folder_keeps_the_first_and_the_last_line(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    with Trace(folder) as trace:
        for epoch in (1, 2, 3):
            trace.note({"fraction": epoch / 3, "message": f"epoch {epoch}", "metrics": {"loss": 1.0}, "used": used()})
    (told,) = traces(tmp_path)
    assert (told.job, [line.message for line in told.lines]) == ("train", ["epoch 1", "epoch 3"])
    assert all(value > 0 for line in told.lines for value in line.used.values())
    assert next(value for _, value in told.bytes_of("memory_bytes")) > 1e6 and told.bytes_of("gpu_memory_bytes") == []


def test_processors_are_told_between_lines_but_not_across_a_new_beginning(tmp_path: Path) -> None:
    rows = [("10:00:00", 5.0), ("10:00:10", 20.0), ("10:00:20", 1.0), ("10:00:30", 6.0)]
    lines = [{"at": f"2026-03-01T{at}+00:00", "used": {"cpu_seconds": spent}} for at, spent in rows]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / NAME).write_text(f'{text}{{"at": "2026-03-', encoding="utf-8")
    (told,) = traces(tmp_path)
    assert [round(value) for _, value in told.cpu_percent] == [150, 50]
