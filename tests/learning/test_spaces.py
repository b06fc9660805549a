"""Every choice of a space is a subnet, written down in one way only."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.learning.spaces import SPACES, Encoding, space

MBV3 = space("mbv3")
SEEDS = st.integers(0, 2**32)


def _sample(seed: int) -> Encoding:
    return MBV3.sample(random.Random(seed))


@given(SEEDS)
def test_a_sample_is_canonical_and_within_the_space(seed: int) -> None:
    encoding = _sample(seed)
    assert MBV3.canonical(encoding) == encoding
    blocks = MBV3.blocks(encoding, MBV3.shape(32))
    assert all(block.expand in MBV3.expands and block.kernel in MBV3.kernels for block in blocks)
    assert len(MBV3.stages) <= len(blocks) <= sum(stage.max_depth for stage in MBV3.stages)


@given(SEEDS, SEEDS, SEEDS)
def test_children_of_a_space_stay_in_it(first: int, second: int, seed: int) -> None:
    a, b, source = _sample(first), _sample(second), random.Random(seed)
    for child in (MBV3.crossover(a, b, source), MBV3.mutate(a, source, 0.5)):
        assert MBV3.canonical(child) == child


@given(SEEDS, SEEDS)
def test_equal_subnets_have_equal_digests_and_others_have_not(first: int, second: int) -> None:
    a, b = _sample(first), _sample(second)
    assert (MBV3.digest(a, 32) == MBV3.digest(b, 32)) == (a == b)
    assert MBV3.digest(a, 32) != MBV3.digest(a, 64)


@given(SEEDS)
def test_no_subnet_is_smaller_than_the_smallest_or_larger_than_the_largest(seed: int) -> None:
    low, this, high = (MBV3.cost(one, 32, 10) for one in (MBV3.smallest(), _sample(seed), MBV3.largest()))
    assert low.macs <= this.macs <= high.macs and low.params <= this.params <= high.params


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_space_leaves_room_for_unlike_devices(name: str) -> None:
    one = space(name)
    assert one.cost(one.largest(), 32, 10).macs >= 8 * one.cost(one.smallest(), 32, 10).macs


@pytest.mark.parametrize("resolution_px", [16, 32, 64, 96, 128, 224, 640])
def test_pictures_of_any_size_end_small_and_not_too_small(resolution_px: int) -> None:
    shape = MBV3.shape(resolution_px)
    size = resolution_px
    for stride in (*shape.stem, *shape.stages):
        size = (size + stride - 1) // stride
    assert 4 <= size <= 7


def test_what_is_no_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="not an encoding"):
        MBV3.canonical([9] * len(MBV3.sizes))
    with pytest.raises(ValueError, match="mbv3"):
        space("resnet")
