"""Subnets of the detection space: parts of shared weights, and ordinary ultralytics networks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("ultralytics", reason="detection needs: pip install 'milonga-hub[yolo]'")

from milonga_hub.learning.costs import traced
from milonga_hub.learning.sharing import shared_weights
from milonga_hub.learning.spaces import yolo_costs
from milonga_hub.learning.spaces.base import Encoding
from milonga_hub.learning.spaces.yolo import FAMILIES, Yolo
from milonga_hub.learning.spaces.yolo_network import build
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.task import resized

# An eighth of the full width: as many layers as any other, in little time.
_WIDTH = 0.125


def _operations(space: Yolo) -> list[str]:
    return list(dict.fromkeys(one for row in space.rows for one in row.operations if len(row.operations) > 1))


def _with(space: Yolo, operation: str, kernel: int, source: random.Random) -> Encoding:
    """Return a random subnet whose blocks all have this operation."""
    values = space.values(space.sample(source))
    for name in values:
        if name.endswith(".operation"):
            values[name] = operation
        elif name.endswith(".kernel"):
            values[name] = kernel
    return space.encoded(values)


def _tensors(outputs: Any) -> list[torch.Tensor]:
    branches = [outputs] if "boxes" in outputs else list(outputs.values())
    return [branch[key] for branch in branches for key in ("boxes", "scores")]


@pytest.fixture
def double() -> Iterator[None]:
    """Make new networks in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", FAMILIES)
def test_an_extracted_subnet_makes_what_the_supernet_makes(family: str) -> None:
    torch.manual_seed(0)
    source = random.Random(0)
    space = Yolo(64, family, _WIDTH)
    supernet = Supernet(space, 3)
    # Enough pictures that statistics of maps of one cell are well conditioned.
    pictures = torch.rand(16, 3, 64, 64)
    chosen = [space.largest(), space.smallest()]
    chosen += [_with(space, operation, kernel, source) for operation in _operations(space) for kernel in (3, 7)]
    with torch.no_grad():
        for encoding in chosen:
            ours = supernet(pictures, encoding)
            network = supernet.extract(encoding).train()
            theirs = network(resized(pictures, space.resolution(encoding)))
            for first, second in zip(_tensors(ours), _tensors(theirs), strict=True):
                assert first.shape == second.shape
                assert torch.allclose(first, second, rtol=0, atol=1e-9), space.describe(encoding)


def test_a_subnet_gives_gradients_to_its_own_operations_only() -> None:
    torch.manual_seed(0)
    space = Yolo(64, "yolo11", _WIDTH)
    supernet = Supernet(space, 3)
    encoding = _with(space, "C2fCIB", 3, random.Random(0))
    outputs = supernet(torch.rand(2, 3, 64, 64), encoding)
    sum(one.square().mean() for one in _tensors(outputs)).backward()
    touched = {
        name.split(".")[3] for name, one in supernet.named_parameters() if "operations" in name and one.grad is not None
    }
    assert touched == {"C2fCIB", "ends"}


def test_a_small_kernel_is_the_one_that_lies_beside_the_large_one() -> None:
    space = Yolo(64, "yolo26", _WIDTH)
    shared = dict(space.shared(3).named_parameters())
    network = space.network(_with(space, "C2fCIB", 3, random.Random(1)), 3)
    weights = shared_weights(shared, network)
    name = "model.8.m.0.cv1.2.conv.weight"
    whole = shared["operations.8.C2fCIB.m.0.cv1.2.conv1.conv.weight"]
    assert torch.equal(weights[name], whole[: len(weights[name])])


def test_halves_are_cut_alike_where_a_block_splits_its_channels() -> None:
    space = Yolo(64, "yolov8", _WIDTH)
    shared = dict(space.shared(3).named_parameters())
    network = space.network(space.encoded({"p5.width": 0.5, "p5.operation": "C2f"}), 3)
    taken = shared_weights(shared, network)["model.8.cv1.conv.weight"]
    whole = shared["operations.8.ends.cv1.conv.weight"]
    half, front = len(whole) // 2, len(taken) // 2
    assert 2 * front == half
    assert torch.equal(taken[:front], whole[:front, : taken.shape[1]])
    assert torch.equal(taken[front:], whole[half : half + front, : taken.shape[1]])


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_attention_takes_whole_heads_at_every_width(width: float) -> None:
    space = Yolo(64, "yolo26", width)
    shared = {name: one.to("meta") for name, one in space.shared(3).named_parameters()}
    source = random.Random(0)
    for _ in range(5):
        with torch.device("meta"):
            shared_weights(shared, space.network(space.sample(source), 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_counted_by_rows_are_those_of_the_whole_network(family: str) -> None:
    space = Yolo(96, family, 0.25)
    source = random.Random(0)
    for encoding in [space.largest(), space.smallest(), *(space.sample(source) for _ in range(3))]:
        with torch.device("meta"):
            network = build({**space.description(encoding, 5), "end2end": False})
            yolo_costs._fold(network)
        network.model[-1].export = True
        side = space.resolution(encoding)
        assert space.cost(encoding, 5) == traced(network, (1, 3, side, side))[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_familys_own_networks_have_the_parameters_of_ultralytics_own(family: str) -> None:
    from milonga_hub.learning.spaces.yolo_network import family as described
    from ultralytics.nn.tasks import DetectionModel

    whole = {**described(family), "scale": "n", "nc": 5}
    ours, theirs = build(whole), DetectionModel(whole, verbose=False)
    assert {name: one.shape for name, one in ours.state_dict().items()} == {
        name: one.shape for name, one in theirs.state_dict().items()
    }
    assert torch.equal(ours.stride, theirs.stride)


def test_choices_without_effect_and_equal_widths_are_no_other_subnets() -> None:
    space = Yolo(64, "yolo26", _WIDTH)
    for one in space.dimensions:
        if one.name.endswith(".width"):
            rows = [row for row in space.rows if row.stage == one.name.split(".")[0]]
            assert len({tuple(row.width(float(ratio)) for row in rows) for ratio in one.choices}) == len(one.choices)
    first = space.encoded({"p3.operation": "C2f", "p3.kernel": 3})
    assert first == space.encoded({"p3.operation": "C2f", "p3.kernel": 7})
    assert "p3 64 C2f x2" in space.describe(first)


def test_families_have_digests_of_their_own() -> None:
    spaces = [Yolo(64, "yolo11"), Yolo(64, "yolo26"), Yolo(64, "yolo26", 0.25)]
    assert len({space.digest([0] * len(space.sizes)) for space in spaces}) == 3


def test_a_resolution_that_strides_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        Yolo(100)
    with pytest.raises(ValueError, match="yolov8, yolo11, yolo26"):
        Yolo(96, "yolo5")
