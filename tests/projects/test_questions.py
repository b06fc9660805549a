"""Five questions and the project that their answers make."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.devices.selectors import parse
from milonga_hub.projects import rules
from milonga_hub.projects.models import PROJECT_FILE, Limits
from milonga_hub.projects.rules_questions import Answers, Priority, document, problems, selector_of, spec_of
from milonga_hub.tasks import Task

ANSWERS = Answers("parts", Task.CLASSIFICATION, latency_ms=100.0, model_bytes=5_000_000, typical_px=640)


@given(
    st.sampled_from(Task),
    st.sampled_from(Priority),
    st.none() | st.floats(0.001, 1e6),
    st.none() | st.integers(1, 10**12),
    st.none() | st.integers(1, 10_000),
    st.lists(st.sampled_from(["raspberry-pi-5", "jetson orin", "x86_64"]), unique=True),
)
def test_any_answers_make_a_project_that_the_file_says_in_full(
    task: Task, priority: Priority, ms: float | None, size: int | None, px: int | None, types: list[str]
) -> None:
    spec = spec_of(Answers("parts", task, types, "site=busan", ms, size, priority, px))
    rules.check("parts", spec)
    assert PROJECT_FILE.parse(document("parts", spec), "answers") == ("parts", spec)


def test_a_balance_takes_the_limits_as_they_are() -> None:
    assert spec_of(ANSWERS).limits == [Limits(latency_ms=100.0, model_bytes=5_000_000)]
    assert spec_of(replace(ANSWERS, latency_ms=None, model_bytes=None)).limits == []


def test_speed_and_size_halve_what_was_said_and_need_it_said() -> None:
    fast, small = replace(ANSWERS, priority=Priority.SPEED), replace(ANSWERS, priority=Priority.SIZE)
    assert spec_of(fast).limits == [Limits(latency_ms=50.0, model_bytes=5_000_000)]
    assert spec_of(small).limits == [Limits(latency_ms=100.0, model_bytes=2_500_000)]
    assert problems(fast) == problems(small) == problems(ANSWERS) == {}
    assert "how fast" in problems(replace(fast, latency_ms=None))["priority"]
    assert "how small" in problems(replace(small, model_bytes=None))["priority"]


def test_accuracy_sees_more_and_trains_longer() -> None:
    plain, accurate = spec_of(ANSWERS), spec_of(replace(ANSWERS, priority=Priority.ACCURACY))
    assert accurate.training.resolution_px > plain.training.resolution_px
    assert accurate.training.epochs > plain.training.epochs
    assert accurate.build.max_accuracy_loss_points < plain.build.max_accuracy_loss_points


def test_chosen_detectors_train_on_by_themselves_and_classifiers_are_taken_as_they_come() -> None:
    for priority in Priority:
        answers = replace(ANSWERS, priority=priority)
        assert spec_of(answers).training.finetune_epochs == 0
        detector = spec_of(replace(answers, task=Task.DETECTION)).training
        assert detector.finetune_epochs == detector.epochs // 2


@pytest.mark.parametrize(("typical_px", "wanted_px"), [(8, 32), (32, 32), (48, 64), (640, 96), (None, 96)])
def test_networks_see_no_more_pixels_than_the_pictures_have(typical_px: int | None, wanted_px: int) -> None:
    assert spec_of(replace(ANSWERS, typical_px=typical_px)).training.resolution_px == wanted_px


def test_device_types_and_labels_together_choose_devices() -> None:
    assert selector_of((), " ") == ""
    assert selector_of(("pi-5",), "") == "type=pi-5"
    both = parse(selector_of(("pi-5", "jetson orin"), "!canary"))
    assert both.matches({"type": "jetson orin"}) and not both.matches({"type": "pi-5", "canary": "yes"})
