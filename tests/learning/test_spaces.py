"""Every choice of a space is a subnet, written down in one way only."""

from __future__ import annotations

import json
import random
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.learning.costs import traced
from milonga_hub.learning.spaces import SPACES, Encoding, Space, rebuilt, space
from milonga_hub.learning.spaces.base import resolutions
from milonga_hub.learning.spaces.chain import strides
from milonga_hub.learning.spaces.fixed import Fixed, levels
from milonga_hub.learning.spaces.yolo import Yolo

NAMES = ("mbv3", "resnet", "densenet")
SEEDS = st.integers(0, 2**32)
SOME = st.sampled_from(NAMES).map(lambda name: space(name, 32))


def _sample(one: Space, seed: int) -> Encoding:
    return one.sample(random.Random(seed))


@given(SOME, SEEDS)
def test_a_sample_is_canonical_and_within_the_space(one: Space, seed: int) -> None:
    encoding = _sample(one, seed)
    assert one.canonical(encoding) == encoding
    assert one.encoded(one.values(encoding)) == encoding
    assert one.resolution(encoding) in resolutions(32, 4)


@given(SOME, SEEDS, SEEDS, SEEDS)
def test_children_of_a_space_stay_in_it(one: Space, first: int, second: int, seed: int) -> None:
    a, b, source = _sample(one, first), _sample(one, second), random.Random(seed)
    for child in (one.crossover(a, b, source), one.mutate(a, source, 0.5)):
        assert one.canonical(child) == child


@given(SOME, SEEDS, SEEDS)
def test_equal_subnets_have_equal_digests_and_others_have_not(one: Space, first: int, second: int) -> None:
    a, b = _sample(one, first), _sample(one, second)
    assert (one.digest(a) == one.digest(b)) == (a == b)
    assert one.digest(a) != space(one.name, 64).digest(a)


@pytest.mark.parametrize("name", ["resnet", "densenet"])
def test_subnets_are_counted_as_often_as_they_differ(name: str) -> None:
    """Stages do not depend on each other: the choices of each, tried with all others at their largest, multiply."""
    one, total = space(name, 16), 1
    stages = dict.fromkeys(dimension.name.partition(".")[0] for dimension in one.dimensions)
    for stage in stages:
        own = [dimension.name.partition(".")[0] == stage for dimension in one.dimensions]
        choices = (range(size) if varies else [size - 1] for size, varies in zip(one.sizes, own, strict=True))
        total *= len({one.canonical(choice) for choice in product(*choices)})
    assert one.count() == total > 1000
    assert Fixed(one, one.largest()).count() == 1


@pytest.mark.parametrize("name", NAMES)
def test_digests_never_change(name: str) -> None:
    """They name files and measurements of years: a space that changes needs another name."""
    known = {
        "mbv3": "sha256:21946ef0",
        "resnet": "sha256:d5b1a21f",
        "densenet": "sha256:c53ac922",
    }
    assert space(name, 32).digest(space(name, 32).largest()).startswith(known[name])


@pytest.mark.parametrize("name", NAMES)
def test_no_subnet_is_smaller_than_the_smallest_or_larger_than_the_largest(name: str) -> None:
    one, source = space(name, 32), random.Random(0)
    low, high = one.cost(one.smallest(), 10), one.cost(one.largest(), 10)
    assert high.macs >= 8 * low.macs
    for _ in range(20):
        this = one.cost(one.sample(source), 10)
        assert low.macs <= this.macs <= high.macs and low.params <= this.params <= high.params
        assert low.peak_activations <= this.peak_activations <= high.peak_activations


@pytest.mark.parametrize("resolution_px", [16, 32, 224])
@pytest.mark.parametrize("name", NAMES)
def test_costs_counted_block_by_block_are_those_of_the_whole_network(name: str, resolution_px: int) -> None:
    one, source = space(name, resolution_px), random.Random(1)
    for encoding in (one.smallest(), one.largest(), one.sample(source)):
        size = one.resolution(encoding)
        with torch.device("meta"):
            whole, logits = traced(one.network(encoding, 10), (1, 3, size, size))
        assert one.cost(encoding, 10) == whole
        assert tuple(logits.shape) == (1, 10)


def test_costs_of_a_known_network_are_those_on_paper() -> None:
    """A convolution 3 -> 8 of 3 x 3 at 16 x 16, normalised in place, a depthwise 3 x 3, and a linear layer."""
    with torch.device("meta"):
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, 10),
        )
        cost, _ = traced(network, (1, 3, 16, 16))
    assert cost.macs == 16 * 16 * 8 * (27 + 9) + 80 and cost.depthwise_macs == 16 * 16 * 8 * 9
    assert cost.params == (8 * 27 + 8) + (8 * 9 + 8) + 90 and cost.layers == 3
    assert cost.peak_activations == 2 * 8 * 16 * 16


@pytest.mark.parametrize(
    "made",
    [*(space(name, 32) for name in SPACES), space("yolo11n", 64), Yolo(96, "yolov8", 0.125)],
    ids=lambda one: one.name,
)
def test_a_space_is_made_again_from_its_settings(made: Space) -> None:
    chosen = made.sample(random.Random(0))
    for one in (made, Fixed(made, chosen)):
        again = rebuilt(json.loads(json.dumps(one.settings)))
        assert type(again) is type(one) and again.settings == one.settings
        assert again.digest(again.largest()) == one.digest(one.largest())


@pytest.mark.parametrize("name", [*sorted(SPACES), "yolo"])
@pytest.mark.parametrize("resolution_px", [32, 96])
def test_levels_grow_from_the_smallest_to_the_largest_at_full_resolution(name: str, resolution_px: int) -> None:
    one = space(name, resolution_px)
    found = levels(one)
    costs = [one.cost(encoding, 10) for encoding in found]
    assert len(found) == 5 and found[-1] == one.largest()
    assert {one.resolution(encoding) for encoding in found} == {resolution_px}
    for smaller, larger in pairwise(costs):
        assert smaller.macs < larger.macs and smaller.params < larger.params
    smallest = one.values(found[0])
    assert smallest == {**one.values(one.smallest()), "resolution": resolution_px}


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_choice_without_effect_changes_nothing(name: str) -> None:
    one = space(name, 64)
    for dimension, size in zip(one.dimensions, one.sizes, strict=True):
        unused = set(one.unused(one.values(one.smallest())))
        if dimension.name in unused:
            values = {**one.values(one.smallest()), dimension.name: dimension.choices[size - 1]}
            assert one.encoded(values) == one.smallest()


@pytest.mark.parametrize("resolution_px", [16, 32, 64, 96, 128, 224, 640])
@pytest.mark.parametrize("stages", [3, 4, 5])
def test_pictures_of_any_size_end_small_and_not_too_small(resolution_px: int, stages: int) -> None:
    stem, of_stages = strides(resolution_px, stages)
    size = resolution_px
    for stride in (*stem, *of_stages):
        size = (size + stride - 1) // stride
    assert 4 <= size <= 7


def test_what_is_no_encoding_is_refused() -> None:
    one = space("mbv3", 32)
    with pytest.raises(ValueError, match="not an encoding"):
        one.canonical([9] * len(one.sizes))
    with pytest.raises(ValueError, match="mbv3, resnet, densenet, yolo"):
        space("vgg", 32)
