"""The clients against a real gRPC server with real services, after a busy day."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from milonga.client import Client

from tests.cli.conftest import served
from tests.web.filled import Services, filled


@pytest.fixture(scope="package")
def filled_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Services]]:
    services = filled(tmp_path_factory.mktemp("client"))
    with served(services) as address:
        yield address, services


@pytest.fixture
def address(filled_hub: tuple[str, Services]) -> str:
    return filled_hub[0]


@pytest.fixture
def services(filled_hub: tuple[str, Services]) -> Services:
    return filled_hub[1]


@pytest.fixture
def hub(address: str) -> Iterator[Client]:
    with Client(address) as hub:
        yield hub
