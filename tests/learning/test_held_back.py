"""Pictures that judge versions alone: which they are, and that nothing that chooses hears of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from milonga_hub.datasets.rules import VALIDATION, split_of
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.held_back import fewest, held_back

from tests.learning.data import write_arrays

DIGESTS = [f"{number:064x}" for number in range(400)]


def _with_digests(path: Path, count: int) -> Path:
    with np.load(write_arrays(path, count)) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    np.savez(path, **found, digests_val=np.array(DIGESTS[: len(found["y_val"])]))
    return path


def test_about_a_half_is_held_back_and_a_picture_stays_where_it_is() -> None:
    few, more = held_back(DIGESTS[:200], 10), held_back(DIGESTS, 10)
    assert 0.4 < few.mean() < 0.6 and 0.4 < more.mean() < 0.6
    assert (more[:200] == few).all()
    turned = held_back(DIGESTS[::-1], 10)
    assert (turned[::-1] == more).all(), "whatever comes before it"


def test_the_pictures_of_the_validation_split_fall_into_both_halves() -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(3000)]
    validating = [one for one in digests if split_of(one) == VALIDATION]
    assert 0.45 < held_back(validating, 10).mean() < 0.55


@pytest.mark.parametrize(("count", "classes"), [(199, 2), (399, 20), (0, 2)])
def test_of_few_pictures_none_is_held_back(count: int, classes: int) -> None:
    assert count < fewest(classes)
    assert not held_back(DIGESTS[:count], classes).any()


def test_of_pictures_that_no_hub_wrote_none_is_held_back() -> None:
    assert not held_back([""] * 400, 2).any()
    assert not held_back([*DIGESTS[:399], ""], 2).any()


def test_the_accuracy_that_chooses_is_of_the_other_half_alone(tmp_path: Path) -> None:
    task = Classification(load(_with_digests(tmp_path / "data.npz", 840)))
    apart = task.held_back
    assert 80 < apart.sum() < 130
    judge, labels = task.judge(task.input(16)), task.data.y_val.numpy()
    # Right on all that choose, wrong on all that are held back.
    judge.add(np.eye(10, dtype=np.float32)[np.where(apart, (labels + 1) % 10, labels)])
    assert judge.accuracy() == 1.0
    assert judge.accuracy_of(apart) == 0.0
    assert judge.entries()["reference"]["sample_count"] == len(labels), "telemetry is held against all"


def test_files_of_earlier_versions_hold_nothing_back(tmp_path: Path) -> None:
    assert not Classification(load(write_arrays(tmp_path / "data.npz", 840))).held_back.any()
