"""One server that speaks S3 for all tests of blobs, where the packages for it are installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.blobs.stores import S3, WITHOUT_S3, s3


@pytest.fixture(scope="package")
def server() -> Iterator[S3]:
    if WITHOUT_S3:
        pytest.skip(WITHOUT_S3)
    with s3() as running:
        yield running
