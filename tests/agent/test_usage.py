"""What the agent and its workers take is told as the kernel counts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
from milonga_agent.usage import Usage, family, peak_memory_bytes, running


def test_what_a_process_takes_is_what_psutil_says() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = {process.pid: process for process in family(os.getpid())}
        assert found[child.pid].parent == os.getpid()
        own, said = found[os.getpid()], psutil.Process()
        assert own.parent == said.ppid()
        # Both only grow, and psutil was asked later. Counted in ticks: sums of seconds differ in their last digits.
        tick = os.sysconf("SC_CLK_TCK")
        times = said.cpu_times()
        assert 0 < round(own.cpu_seconds * tick) <= round(times.user * tick) + round(times.system * tick)
        cpu_percent, memory_bytes = Usage().take()
        assert cpu_percent == 0.0 and memory_bytes > 0
    finally:
        child.communicate(b"\n")


def test_names_with_spaces_and_parentheses_and_processes_that_have_ended_are_read(tmp_path: Path) -> None:
    for pid, told in (("7", "7 (a) (b c) S 3 7 7 0 -1 0 0 0 0 0 250 50 9 9 20 0 1 0 1 4096 25 0"), ("8", "")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "stat").write_text(told, encoding="utf-8")
    (tmp_path / "9").mkdir()
    (tmp_path / "self").mkdir()
    (found,) = running(tmp_path)
    assert (found.pid, found.parent) == (7, 3)
    assert found.cpu_seconds == 300 / os.sysconf("SC_CLK_TCK")
    assert found.memory_bytes == 25 * os.sysconf("SC_PAGE_SIZE")


def test_a_programs_peak_memory_is_its_own_and_not_that_of_what_started_it(tmp_path: Path) -> None:
    mine = b"1" * (96 << 20)
    told = "from milonga_agent.usage import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < len(mine) <= peak_memory_bytes()
    # A kernel that does not say has to be asked another way.
    assert peak_memory_bytes(tmp_path / "none") >= len(mine)
