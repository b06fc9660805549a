"""One network and its evidence for all tests of the compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
from milonga_compiler.parity import Labelled

from tests.compiler.networks import Pictures, digits, write_network


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    return digits()


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> tuple[Path, Labelled]:
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    logits = write_network(path, pictures)
    held_out = slice(pictures.train_count, None)
    return path, Labelled(pictures.normalised[held_out], logits[held_out], pictures.labels[held_out])
