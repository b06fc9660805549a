"""What all tests share: property tests repeat themselves, a busy machine fails none, and long files begin first."""

from __future__ import annotations

import os

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
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
