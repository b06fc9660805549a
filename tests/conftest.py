"""What all tests share: property tests repeat themselves, a busy machine fails none, and long files begin first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("milonga", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("milonga")

# Here, because numpy and torch read it when they are imported, and what tests start inherits it. Networks and matrices of
# tests are so small that more threads mostly spin: the latency model's tests took five times the processor time with two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whether mosquitto is installed changes nothing but the tests that are about it.
os.environ.setdefault("MILONGA_BROKER", "embedded")


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
