"""The thread between the hub and a server that may be slow, away, or of another opinion."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest
from milonga_hub.tracking import mirror
from milonga_hub.tracking.errors import Away, Refused
from milonga_hub.tracking.mirror import Mirror


class Server:
    """Keeps what it was told; answers each name with the errors that are set for it first."""

    def __init__(self) -> None:
        self.told: queue.Queue[str] = queue.Queue()
        self.errors: dict[str, list[Exception]] = {}

    def tell(self, name: str) -> None:
        if self.errors.get(name):
            raise self.errors[name].pop(0)
        self.told.put(name)

    def next(self, count: int) -> list[str]:
        return [self.told.get(timeout=30) for _ in range(count)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(mirror, "_FIRST_WAIT_SECONDS", 0.0)
    return Server()


@pytest.fixture
def mirrored(server: Server) -> Iterator[Mirror]:
    """Holds three names at most; a test starts it."""
    found = Mirror(server.tell, most_waiting=3, seconds_between=0.0)
    yield found
    found.end()


def test_names_are_told_in_their_order_and_one_that_waits_only_once(server: Server, mirrored: Mirror) -> None:
    for name in ("a", "b", "a", "c"):
        mirrored.add(name)
    mirrored.start()
    assert server.next(3) == ["a", "b", "c"]
    mirrored.add("a")
    assert server.next(1) == ["a"]
    assert server.told.empty()


def test_while_a_server_is_away_everything_waits_for_it(server: Server, mirrored: Mirror) -> None:
    server.errors = {"a": [Away("no answer"), Away("no answer")], "b": [Away("no answer")]}
    for name in ("a", "b"):
        mirrored.add(name)
    mirrored.start()
    assert sorted(server.next(2)) == ["a", "b"]
    assert mirrored.dropped == 0


def test_one_that_a_server_fails_at_does_not_hold_up_the_others(server: Server, mirrored: Mirror) -> None:
    server.errors = {"a": [Away("error 500")]}
    for name in ("a", "b", "c"):
        mirrored.add(name)
    mirrored.start()
    assert server.next(3) == ["b", "c", "a"]


def test_what_is_refused_or_fails_is_left_out_and_counted(
    server: Server, mirrored: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    server.errors = {"a": [Refused("too long")], "b": [ValueError("a fault of ours")]}
    for name in ("a", "b", "c"):
        mirrored.add(name)
    mirrored.start()
    assert server.next(1) == ["c"]
    assert mirrored.dropped == 2
    assert "left out a (1 so far): too long" in caplog.text
    assert "left out b (2 so far): a fault of ours" in caplog.text


def test_of_too_many_the_oldest_is_left_out(server: Server, mirrored: Mirror, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b", "c", "d"):
        mirrored.add(name)
    mirrored.start()
    assert server.next(3) == ["b", "c", "d"]
    assert "left out a (1 so far)" in caplog.text


def test_the_end_does_not_wait_for_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def tell(_: str) -> None:
        asked.set()
        raise Away("no answer")

    monkeypatch.setattr(mirror, "_FIRST_WAIT_SECONDS", 3600.0)
    monkeypatch.setattr(mirror, "_LONGEST_WAIT_SECONDS", 3600.0)
    monkeypatch.setattr(mirror, "_SECONDS_TO_END", 60.0)
    mirrored = Mirror(tell)
    mirrored.add("a")
    mirrored.start()
    assert asked.wait(30)
    mirrored.end()
    assert "tracking" not in {thread.name for thread in threading.enumerate()}
