"""The supernet and its subnets are one network."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from milonga_hub.learning.export import export
from milonga_hub.learning.folding import fold
from milonga_hub.learning.spaces import Encoding, Space, space
from milonga_hub.learning.supernet import Supernet, recalibrate
from milonga_hub.learning.task import resized

NAMES = ("mbv3", "resnet", "densenet")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _some(one: Space, count: int = 6) -> list[Encoding]:
    source = random.Random(3)
    return [one.smallest(), one.largest(), *(one.sample(source) for _ in range(count))]


def _random_weights(one: Space) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(one, 10)
    for parameter in supernet.parameters():
        # Blocks start as the identity, which would hide mistakes in them.
        torch.nn.init.normal_(parameter, std=0.3)
    return supernet


@pytest.mark.parametrize("name", NAMES)
def test_an_extracted_subnet_computes_what_the_supernet_does(name: str) -> None:
    one = space(name, 32)
    # In double precision: another order of summing, which CPUs choose for themselves, is then far below the tolerance.
    supernet = _random_weights(one).double()
    pictures = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    for encoding in _some(one):
        expected = supernet(pictures, encoding)
        found = supernet.extract(encoding).double().train()(resized(pictures, one.resolution(encoding)))
        assert (found - expected).abs().max() < 1e-9 * expected.abs().max(), one.describe(encoding)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_made_once_for_all_subnets_and_keep_nothing_of_a_run(name: str) -> None:
    one = space(name, 16)
    supernet = _random_weights(one)
    for encoding in _some(one, 12):
        supernet(torch.randn(2, 3, 16, 16), encoding)
        skeleton = supernet._skeleton(one.canonical(encoding))
        assert all(weight.is_meta and weight.is_leaf for weight in skeleton.network.parameters())
    made = supernet._part.cache_info()
    assert made.hits > 0 and made.misses == made.currsize


@pytest.mark.parametrize("name", NAMES)
def test_a_subnet_moves_only_the_weights_that_it_uses(name: str) -> None:
    one = space(name, 16)
    supernet = _random_weights(one)
    supernet(torch.randn(4, 3, 16, 16), one.smallest()).sum().backward()
    touched = sum(int((weight.grad != 0).sum()) for weight in supernet.parameters() if weight.grad is not None)
    own = sum(weight.numel() for weight in supernet.extract(one.smallest()).parameters())
    assert 0 < touched <= own < sum(weight.numel() for weight in supernet.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_onnx_file_computes_what_the_subnet_does(name: str, tmp_path: Path) -> None:
    one = space(name, 32)
    supernet = _random_weights(one)
    for encoding in _some(one, 2):
        size = one.resolution(encoding)
        network = recalibrate(supernet.extract(encoding), [torch.randn(16, 3, 32, 32)], size)
        export(one.deployed(network), size, tmp_path / "model.onnx")
        pictures = torch.randn(3, 3, size, size)
        expected = network(pictures).detach().numpy()
        session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
        found = session.run(["logits"], {"image": pictures.numpy()})[0]
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
        types = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
        assert "BatchNormalization" not in types
        assert not [layer for layer in fold(network).modules() if isinstance(layer, torch.nn.BatchNorm2d)]
