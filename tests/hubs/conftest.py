"""Only `make test-hubs` runs several hubs as processes of their own: it takes minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, make_url

from tests import postgres_server


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "hubs" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("hubs"):
            item.add_marker(pytest.mark.skip(reason="runs several hubs: make test-hubs"))


@pytest.fixture
def own_server() -> Iterator[str]:
    """Yield the URL of a server that this test may stop."""
    with postgres_server.running() as server:
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE hubs")
        engine.dispose()
        yield make_url(server).set(database="hubs").render_as_string(hide_password=False)
