"""Figures of classes say how a build answers."""

from __future__ import annotations

import numpy as np
import pytest
from milonga_hub.learning.judged import MOST_CONFUSED, examples, examples_of_boxes, of_answers, of_boxes


def test_answers_are_told_by_class_and_by_what_they_are_mistaken_for() -> None:
    labels, answers = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    found = of_answers(labels, answers, np.array([0.9, 0.8, 0.6, 0.95, 0.7, 0.5], np.float32), 4)
    assert found["confusion"] == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert found["support"] == [3, 2, 1, 0]
    assert found["recall"] == [pytest.approx(2 / 3, abs=1e-4), 1.0, 0.0, None]
    assert found["precision"] == [pytest.approx(2 / 3, abs=1e-4), pytest.approx(2 / 3, abs=1e-4), None, None]


def test_the_curve_begins_with_the_surest_and_ends_with_all_answers() -> None:
    right = np.arange(1000) < 900
    found = of_answers(np.zeros(1000, int), np.where(right, 0, 1), np.linspace(1, 0, 1000, dtype=np.float32), 2)[
        "curve"
    ]
    assert len(found["recall"]) == len(found["precision"]) == 41
    assert (found["precision"][0], found["recall"][-1], found["precision"][-1]) == (1.0, 0.9, 0.9)
    assert found["recall"] == sorted(found["recall"])


def test_many_classes_have_no_confusion_and_no_pictures_no_curve() -> None:
    empty = np.zeros(0, int)
    found = of_answers(empty, empty, np.zeros(0, np.float32), MOST_CONFUSED + 1)
    assert "confusion" not in found
    assert found["curve"] == {"recall": [], "precision": []}


def test_boxes_are_told_by_class_with_those_that_no_picture_shows_left_out() -> None:
    right = np.ones((4, 10), bool)
    right[3] = False
    confidences, told, shown = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.0, 0.0, 2.0, 2.0]), np.array([0.0, 0.0, 2.0])
    metrics = pytest.importorskip("ultralytics.utils.metrics")
    found = of_boxes(metrics.ap_per_class(right, confidences, told, shown), shown.astype(int), 3)
    assert found["support"] == [2, 0, 1]
    assert found["average_precision"][1] is None and found["average_precision"][0] == pytest.approx(0.995, abs=0.01)
    assert found["curve"]["recall"][0] == 0.0 and found["curve"]["recall"][-1] == 1.0


def test_the_surest_mistakes_come_first_among_the_answers_to_look_at() -> None:
    labels, answers = np.array([0, 1, 1, 0, 1]), np.array([0, 0, 1, 1, 0])
    confidences = np.array([0.9, 0.6, 0.8, 0.95, 0.7], dtype=np.float32)
    found = examples(np.array([3, 5, 7, 9, 11]), labels, answers, confidences)
    assert [each["row"] for each in found] == [9, 11, 5, 3, 7]
    assert found[0] == {"row": 9, "label": 0, "answer": 1, "confidence": 0.95}


def test_the_pictures_whose_boxes_fit_worst_come_first() -> None:
    told = [np.zeros((0, 6), np.float32), np.array([[1, 2, 3, 4, 0.5, 1]], np.float32)]
    found = examples_of_boxes(told, np.array([0.9, 0.1]))
    assert [(each["row"], each["score"], len(each["boxes"])) for each in found] == [(1, 0.1, 1), (0, 0.9, 0)]
