"""A filled and an empty hub behind the real application."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from tests.web.filled import Services, filled
from tests.web.people import signed_in


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """Return services that the tests of one file share; change only what no other test of the file looks at."""
    return filled(tmp_path_factory.mktemp("filled"))


@pytest.fixture(scope="module")
def client(hub: Services) -> Iterator[TestClient]:
    with signed_in(hub) as client:
        yield client


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    hub = Services(tmp_path_factory.mktemp("empty"))
    with signed_in(hub) as client:
        yield client
