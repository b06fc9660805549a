"""The spool keeps windows until the hub has them."""

from __future__ import annotations

from pathlib import Path

from milonga.v1 import telemetry_pb2
from milonga_agent.telemetry import Boot, Spool


def _window(boot: str, sequence: int) -> telemetry_pb2.TelemetryWindow:
    return telemetry_pb2.TelemetryWindow(device="pi", boot_id=boot, sequence=sequence)


def _waiting(spool: Spool) -> list[int]:
    return [telemetry_pb2.TelemetryWindow.FromString(payload).sequence for _, payload in spool.waiting()]


def test_windows_wait_in_order_over_restarts(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for sequence in (9, 10, 11):
        spool.put(1, _window("1-a", sequence))
    Spool(tmp_path).put(2, _window("2-b", 1))
    assert _waiting(Spool(tmp_path)) == [9, 10, 11, 1]


def test_only_what_is_acknowledged_is_forgotten(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for sequence in (1, 2, 3):
        spool.put(1, _window("1-a", sequence))
    spool.acknowledge("1-a", {2, 99})
    spool.acknowledge("other", {1})
    assert _waiting(spool) == _waiting(Spool(tmp_path)) == [1, 3]


def test_a_full_spool_drops_the_oldest_and_says_how_many(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit=3)
    for sequence in range(1, 6):
        spool.put(1, _window("1-a", sequence))
    assert _waiting(spool) == [3, 4, 5]
    newest = telemetry_pb2.TelemetryWindow.FromString(spool.waiting()[-1][1])
    assert newest.dropped_count == spool.dropped_count == 2


def test_each_start_is_a_boot_of_its_own(tmp_path: Path) -> None:
    first, second = Boot(tmp_path), Boot(tmp_path)
    assert first.id != second.id and second.order == first.order + 1
    assert (first.next_sequence(), first.next_sequence(), second.next_sequence()) == (1, 2, 1)
