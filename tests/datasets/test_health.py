"""How good a data set is to learn from, and what to do about it."""

from __future__ import annotations

from milonga_hub.datasets.rules import TRAIN, VALIDATION, Box, Sample
from milonga_hub.datasets.rules_health import by_class, health_of, remarks, sizes_of
from milonga_hub.tasks import Task


def _samples(label: str, train: int, validation: int, boxes: tuple[Box, ...] = ()) -> list[Sample]:
    splits = [TRAIN] * train + [VALIDATION] * validation
    return [Sample(f"{label}{index}", label, split, 1, "", boxes) for index, split in enumerate(splits)]


def test_a_good_data_set_needs_no_advice() -> None:
    health = health_of(Task.CLASSIFICATION, ["bolt", "nut"], [*_samples("bolt", 40, 10), *_samples("nut", 50, 12)], 0)
    assert [(each.name, each.train, each.validation, each.total) for each in health.classes] == [
        ("bolt", 40, 10, 50),
        ("nut", 50, 12, 62),
    ]
    assert health.advice == ()


def test_small_and_rare_classes_few_pictures_and_flawed_files_are_named() -> None:
    samples = [*_samples("bolt", 500, 10), *_samples("nut", 30, 4), *_samples("pin", 3, 1)]
    advice = health_of(Task.CLASSIFICATION, ["bolt", "nut", "pin"], samples, 7).advice
    few, rare, validation, flawed = advice
    assert "of pin:" in few and "of nut:" in rare and "15 to validate" in validation and "left out" in flawed


def test_boxes_are_counted_and_not_pictures() -> None:
    bolt, nut = Box("bolt", 0.5, 0.5, 0.1, 0.1), Box("nut", 0.2, 0.2, 0.1, 0.1)
    samples = [*_samples("", 2, 1, (bolt, bolt, nut)), Sample("bare", "", TRAIN, 1, "")]
    health = health_of(Task.DETECTION, ["bolt", "nut"], samples, 0)
    assert [(each.train, each.validation) for each in health.classes] == [(4, 2), (2, 1)]
    assert health.without_objects == 1


def test_classes_of_unlike_size_and_those_that_nothing_validates_are_remarked_on() -> None:
    samples = [*_samples("bolt", 100, 10), Sample("nut", "nut", TRAIN, 1, "")]
    unlike, unseen = remarks(Task.CLASSIFICATION, by_class(Task.CLASSIFICATION, ["bolt", "nut"], samples))
    assert "between 1 and 100 training pictures" in unlike and "No validation picture shows nut" in unseen
    alike = by_class(Task.CLASSIFICATION, ["bolt"], _samples("bolt", 100, 10))
    assert not list(remarks(Task.CLASSIFICATION, alike))


def test_boxes_of_a_class_that_only_one_split_shows_are_remarked_on() -> None:
    train, validation = (Box(name, 0.5, 0.5, 0.1, 0.1) for name in ("bolt", "nut"))
    samples = [Sample("a", "", TRAIN, 1, "", (train,)), Sample("b", "", VALIDATION, 1, "", (validation,))]
    said = list(remarks(Task.DETECTION, by_class(Task.DETECTION, ["bolt", "nut"], samples)))
    assert said[0].startswith("No training picture shows nut") and said[1].startswith(
        "No validation picture shows bolt"
    )


def test_sizes_have_a_typical_one_between_the_smallest_and_the_largest() -> None:
    sizes = sizes_of([(640, 480, 3000), (16, 16, 100), (320, 240, 500)])
    assert sizes is not None
    assert (sizes.smallest, sizes.typical, sizes.largest) == ((16, 16), (320, 240), (640, 480))
    assert (sizes.looked_at, sizes.mean_bytes) == (3, 1200)
    assert sizes_of([]) is None
