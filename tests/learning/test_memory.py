"""Memory on a device follows from what is counted, once a few subnets were measured there."""

from __future__ import annotations

from milonga_hub.learning.memory import MemoryLine


def test_a_line_through_what_was_measured_is_found() -> None:
    counted = [4e4, 3e5, 1.2e6]
    line = MemoryLine.fit(counted, [64e6 + 3.5 * each for each in counted])
    assert abs(line.expected(6e5) - (64e6 + 2.1e6)) < 1e3


def test_memory_never_falls_with_what_is_counted() -> None:
    line = MemoryLine.fit([1e5, 2e5, 3e5], [66e6, 65e6, 64e6])
    assert line.expected(3e5) >= line.expected(1e5) >= 64e6


def test_what_is_counted_counts_where_no_device_told() -> None:
    assert MemoryLine.fit([], []).expected(1234) == MemoryLine.fit([1.0], [5e7]).expected(1234) == 1234
