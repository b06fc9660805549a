"""What all tests share: property tests repeat themselves, a busy machine fails none, long files begin first, and no disk is waited for."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import event
from sqlalchemy.pool import Pool

settings.register_profile("milonga", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("milonga")

# Here, because numpy and torch read it when they are imported, and what tests start inherits it. Networks and matrices of
# tests are so small that more threads mostly spin: the latency model's tests took five times the processor time with two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whether mosquitto is installed changes nothing but the tests that are about it.
os.environ.setdefault("MILONGA_BROKER", "embedded")

# A shell's background commands ignore Ctrl-C, and so would all that tests start, also where they press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a power cut takes is tried in processes of their own, by tests/soak. What is written within this one is read again within
# it or after its death, for which the system's memory is enough: tests of rollouts waited for the disk 120 times each.
setattr(os, "fsync", lambda descriptor: None)  # noqa: B010 -- mypy wants the very name of its argument


@event.listens_for(Pool, "checkout")
def _let_sqlite_wait_for_no_disk(connection: Any, record: Any, proxy: Any) -> None:
    """When it is first taken from the pool, for what the hub sets of a new connection comes after what all pools are told."""
    if isinstance(connection, sqlite3.Connection) and not record.info.get("waits for no disk"):
        connection.execute("PRAGMA synchronous=OFF")
        record.info["waits for no disk"] = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let files with slow tests begin first where tests run in parallel, so that no core is idle at the end."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("browser")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Yield the URL of a server for tests that are about PostgreSQL: the one that all have, or one that is begun for them."""
    from tests import postgres_server

    given = os.environ.get(postgres_server.VARIABLE)
    if given:
        yield given
        return
    if postgres_server.programs() is None:
        pytest.skip(postgres_server.MISSING)
    with postgres_server.running() as url:
        yield url


@pytest.fixture(autouse=True)
def _databases_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drop what a test had on PostgreSQL; those of SQLite lie in its folder."""
    yield
    databases = sys.modules.get("tests.databases")
    folder = request.node.funcargs.get("tmp_path")
    if databases is not None and isinstance(folder, Path):
        databases.drop_below(folder)
