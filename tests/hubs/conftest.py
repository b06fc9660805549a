"""Only `make test-hubs` runs several hubs as processes of their own: it takes minutes."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "hubs" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("hubs"):
            item.add_marker(pytest.mark.skip(reason="runs several hubs: make test-hubs"))
