"""The queue: in which order pictures are asked about, what people may say, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milonga_hub.datasets.rules import Sample
from milonga_hub.db import utc_now
from milonga_hub.devices.models import Device
from milonga_hub.devices.service import MeasuringPolicy
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.labelling import intake, rules
from milonga_hub.labelling.models import QueuedSample, SampleBox, SampleReason, SampleState, SampleView
from milonga_hub.labelling.rules import Doubt, order, was_right
from milonga_hub.projects.models import ProjectSpec, SamplingSpec
from milonga_hub.projects.rules import worth_a_run
from milonga_hub.tasks import Task

from tests.devices.world import START, World
from tests.labelling.floor import Floor, digest, picture


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Floor]:
    floor = Floor(World(tmp_path, MeasuringPolicy()))
    floor.apply(enabled=True)
    yield floor


def _arrived(hub: Floor, seed: int, device: str = "pi-1", **fields: Any) -> QueuedSample:
    """Return a sample as it is after a device has sent it."""
    data = picture(seed)
    told = SampleView(
        name="",
        **{
            "project": "parts",
            "digest": digest(data),
            "device": device,
            "size_bytes": len(data),
            "predicted": "bolt",
            "confidence": 0.5,
            "reason": SampleReason.LEAST_CONFIDENT,
            **fields,
        },
    )
    row = Device(name=device, device_type="raspberry-pi-5", key_fingerprint="k")
    with hub.world.database.session() as session:
        if session.get(Device, device) is None:
            session.add(row)
    hub.world.devices.assign(device, "sha256:" + "1" * 64, [], "models/parts/versions/1", "parts", "x/fp32")
    name = hub.intake.receive(row, told, data).name
    return hub.labelling.get(name)


def _doubts(*confidences: float, by_chance: bool = False) -> list[Doubt]:
    looks = np.random.default_rng(1).random((len(confidences), 192), dtype=np.float32)
    return [Doubt(sure, rules.stored_look(look), by_chance) for sure, look in zip(confidences, looks, strict=True)]


def test_the_least_confident_picture_is_asked_about_first() -> None:
    assert order(_doubts(0.9, 0.3, 0.6), 3) == [1, 2, 0]


def test_a_picture_much_like_one_that_was_just_asked_about_comes_later() -> None:
    first, other = _doubts(0.3, 0.5)
    twin = Doubt(0.31, rules.stored_look(np.clip(rules.look_of(first.look) + 0.02, 0, 1)), False)
    assert order([first, twin, other], 3) == [0, 2, 1]


def test_every_fourth_question_is_about_a_picture_chosen_by_chance_in_the_order_of_arrival() -> None:
    waiting = [*_doubts(0.9, 0.1, by_chance=True), *_doubts(0.5, 0.4, 0.3, 0.2, 0.1)]
    assert order(waiting, 8) == [6, 5, 4, 0, 3, 2, 1]
    assert order(_doubts(0.9, 0.1, by_chance=True), 8) == [0, 1]


def test_a_label_becomes_part_of_the_next_version_with_where_it_came_from(hub: Floor) -> None:
    before = hub.datasets.latest("parts")
    sample = _arrived(hub, 1)
    hub.labelling.label(sample.name, "nut", decided_by="ann")
    assert hub.labelling.add_labelled("parts") == ("datasets/parts/versions/2", 1)
    version = hub.datasets.latest("parts")
    assert (version.number, version.added_count) == (before.number + 1, 1)
    (added,) = [one for one in _all(hub) if one.digest == sample.digest]
    assert (added.label, added.path) == ("nut", f"samples/pi-1/{sample.name.rpartition('/')[2]}")
    after = hub.labelling.get(sample.name)
    assert (after.dataset_version, after.decided_by) == (version.name, "ann")
    # The picture is where data sets have theirs, and once.
    assert hub.labelling.picture(sample.name) == (picture(1), "image/png") and not hub.pictures()
    assert hub.labelling.add_labelled("parts") == ("", 0)


def _all(hub: Floor) -> list[Sample]:
    return hub.datasets.samples(hub.datasets.latest("parts").name, count=100)[0]


def test_labels_become_a_version_by_themselves_once_nobody_has_labelled_for_a_while(hub: Floor) -> None:
    names = [_arrived(hub, seed).name for seed in (1, 2)]
    for name in names:
        hub.labelling.label(name, accept=True)
        hub.world.clock.advance(100)
        hub.labelling.tidy()
    assert hub.datasets.latest("parts").number == 1
    hub.world.clock.advance(20)
    hub.labelling.tidy()
    assert (hub.datasets.latest("parts").number, hub.datasets.latest("parts").added_count) == (2, 2)


def test_a_crash_between_the_version_and_the_note_of_it_adds_nothing_twice(
    hub: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.labelling.label(_arrived(hub, 1).name, "nut")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(hub.labelling, "_forget", crash)
        hub.labelling.add_labelled("parts")
    # The picture may be gone already.
    for path in hub.pictures():
        path.unlink()
    assert hub.labelling.add_labelled("parts")[0] == "datasets/parts/versions/2"
    assert hub.datasets.latest("parts").number == 2


def test_a_decision_can_be_undone_until_it_is_part_of_the_data_set(hub: Floor) -> None:
    sample = _arrived(hub, 1)
    hub.labelling.label(sample.name, "nut")
    undone = hub.labelling.undo(sample.name)
    assert (undone.state, undone.label, undone.decided_at) == (SampleState.WAITING, "", None)
    hub.labelling.label(sample.name, "bolt")
    hub.labelling.add_labelled("parts")
    with pytest.raises(FailedPrecondition, match="never changes"):
        hub.labelling.undo(sample.name)


def test_a_picture_that_was_skipped_comes_back_for_an_hour_and_is_then_deleted(hub: Floor) -> None:
    sample = _arrived(hub, 1)
    hub.labelling.skip(sample.name)
    hub.world.clock.advance(3599)
    hub.labelling.tidy()
    assert hub.labelling.undo(sample.name).state is SampleState.WAITING
    hub.labelling.skip(sample.name)
    hub.world.clock.advance(3600)
    hub.labelling.tidy()
    assert not hub.pictures()
    with pytest.raises(NotFound, match="deleted"):
        hub.labelling.picture(sample.name)
    with pytest.raises(FailedPrecondition, match="deleted"):
        hub.labelling.undo(sample.name)


def test_a_picture_that_nobody_labels_is_deleted_in_the_end(hub: Floor) -> None:
    _arrived(hub, 1)
    hub.world.clock.advance(timedelta(days=90).total_seconds())
    hub.labelling.tidy()
    assert not hub.pictures() and not hub.samples(SampleState.WAITING)


def test_a_picture_that_arrived_when_the_hub_ended_does_not_stay_behind(hub: Floor) -> None:
    sample = _arrived(hub, 1)
    hub.intake.pictures.put(picture(2))
    later = utc_now() + timedelta(hours=1)
    hub.labelling.sweep(later - timedelta(hours=2))
    assert len(hub.pictures()) == 2
    hub.labelling.sweep(later)
    assert len(hub.pictures()) == 1 and hub.labelling.picture(sample.name)[0] == picture(1)


def test_pictures_that_wait_can_be_deleted_at_once_and_are_not_taken_again(hub: Floor) -> None:
    sample = _arrived(hub, 1)
    assert hub.labelling.discard("parts") == 1
    assert not hub.pictures()
    wanted, done = hub.intake.offer("pi-1", "parts", [sample.digest], 0)
    assert (wanted, done) == ([], [sample.digest])


@pytest.mark.parametrize(
    ("label", "said"), [("", "not a class"), ("washer", "'bolt', 'nut'"), ("<script>", "not a class")]
)
def test_a_label_must_be_a_class_of_the_data_set(hub: Floor, label: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        hub.labelling.label(_arrived(hub, 1).name, label)


def test_a_class_that_the_device_made_up_cannot_be_accepted(hub: Floor) -> None:
    with pytest.raises(InvalidInput, match="not a class"):
        hub.labelling.label(_arrived(hub, 1, predicted="washer").name, accept=True)


def test_boxes_must_lie_inside_of_the_picture_and_name_classes() -> None:
    def check(**sides: float) -> None:
        box = SampleBox(label="nut", **{"x": 0.5, "y": 0.5, "width": 0.2, "height": 0.2, **sides})
        rules.check_label(Task.DETECTION, ["bolt", "nut"], "", [box])

    check()
    check(x=0.1)
    for sides in ({"x": 0.05}, {"width": 0.0}, {"y": 0.95}, {"width": 2.0}, {"x": float("nan")}):
        with pytest.raises(InvalidInput, match="inside"):
            check(**sides)
    rules.check_label(Task.DETECTION, ["nut"], "", [])  # There is nothing in the picture.


def _box(label: str, x: float) -> SampleBox:
    return SampleBox(label=label, x=x, y=0.5, width=0.2, height=0.2)


def test_a_detector_was_right_where_every_object_is_found_once_and_nothing_else() -> None:
    def right(*predicted: SampleBox) -> bool:
        said: dict[str, Any] = {"name": "", "project": "p", "digest": "d", "device": "x"}
        truth = [_box("nut", 0.3), _box("nut", 0.7)]
        return was_right(SampleView(**said, predicted_boxes=list(predicted), boxes=truth))

    assert right(_box("nut", 0.69), _box("nut", 0.31))
    assert not right(_box("nut", 0.3))
    assert not right(_box("nut", 0.3), _box("bolt", 0.7))
    assert not right(_box("nut", 0.3), _box("nut", 0.31))
    assert not right(_box("nut", 0.3), _box("nut", 0.7), _box("nut", 0.5))


def test_accuracy_is_told_of_pictures_chosen_by_chance_alone_with_its_interval(hub: Floor) -> None:
    for seed in range(10):
        sample = _arrived(hub, seed, reason=SampleReason.RANDOM)
        hub.labelling.label(sample.name, "bolt" if seed < 8 else "nut")
    # The model was in doubt about these: that it is wrong on them says nothing of the others.
    for seed in range(10, 15):
        hub.labelling.label(_arrived(hub, seed).name, "nut")
    (accuracy,) = hub.labelling.summary("parts").accuracies
    assert (accuracy.device_type, accuracy.labelled, accuracy.right) == ("raspberry-pi-5", 10, 8)
    # The interval of Wilson for 8 of 10, as statsmodels gives it.
    assert [accuracy.low, accuracy.high] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    version = hub.labelling.get(sample.name).model_version
    of_version = hub.labelling.accuracy("parts", version)
    assert of_version is not None
    assert (of_version.labelled, of_version.right, of_version.high) == (10, 8, accuracy.high)
    assert hub.labelling.accuracy("parts", f"{version}0") is None


def test_what_waits_and_is_done_is_counted(hub: Floor) -> None:
    names = [_arrived(hub, seed).name for seed in range(4)]
    hub.labelling.label(names[0], "nut")
    hub.labelling.skip(names[1])
    hub.intake.offer("pi-1", "parts", [], 3)
    summary = hub.labelling.summary("parts")
    assert (summary.waiting, summary.pending, summary.labelled, summary.skipped) == (2, 1, 1, 1)
    assert (summary.done_today, summary.dropped, summary.enabled) == (2, 3, True)
    hub.world.clock.now = START + timedelta(days=1)
    assert hub.labelling.summary("parts").done_today == 0


def test_devices_that_have_sent_what_they_may_are_told_until_they_may_send_again(hub: Floor) -> None:
    hub.apply(enabled=True, pictures_per_day=2)
    sent = [_arrived(hub, 0)]
    hub.world.clock.now = START + timedelta(hours=1)
    sent.append(_arrived(hub, 1))
    _arrived(hub, 2, device="pi-2")
    for device in ("pi-1", "pi-2"):
        hub.intake.offer(device, "parts", [], 0)
    summary = hub.labelling.summary("parts")
    (spent,) = summary.spent
    assert (summary.spent_count, summary.pictures_per_day, summary.bytes_per_day) == (1, 2, 20_000_000)
    assert (spent.device, spent.pictures, spent.size_bytes) == ("pi-1", 2, sum(each.size_bytes for each in sent))
    assert spent.free_at == START + timedelta(hours=24)
    hub.world.clock.now = START + timedelta(hours=24)
    assert hub.labelling.summary("parts").spent == []
    assert len(hub.intake.offer("pi-1", "parts", [digest(picture(7))], 0)[0]) == 1


def test_where_too_many_pictures_wait_devices_send_no_more_and_the_project_says_why(
    hub: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_MOST_WAITING", 2)
    first = _arrived(hub, 1)
    new = digest(picture(3))
    assert (hub.intake.offer("pi-1", "parts", [new], 0)[0], hub.labelling.summary("parts").stopped) == ([new], "")
    _arrived(hub, 2)
    assert hub.intake.offer("pi-1", "parts", [new], 0)[0] == []
    stopped = hub.labelling.summary("parts").stopped
    assert stopped.startswith("2 pictures of parts wait to be labelled, and no more are taken")
    assert "milonga samples discard parts" in stopped
    hub.labelling.label(first.name, "nut")
    assert (hub.intake.offer("pi-1", "parts", [new], 0)[0], hub.labelling.summary("parts").stopped) == ([new], "")


def test_a_device_whose_next_picture_would_be_too_much_has_sent_what_it_may() -> None:
    spec = SamplingSpec(enabled=True, megabytes_per_day=0.001)
    sent = [(START + timedelta(hours=hour), 300) for hour in range(3)]
    assert rules.free_at(spec, sent) == START + timedelta(hours=24)
    assert rules.free_at(spec, sent[1:]) is None
    assert rules.free_at(spec, []) is None
    # Larger than all that is allowed: for the day after the last one.
    assert rules.free_at(spec, [(START, 2000)]) == START + timedelta(hours=24)


def test_sampling_is_off_unless_it_is_switched_on_and_switching_it_trains_nothing() -> None:
    assert not ProjectSpec(dataset="parts").samples.enabled
    spec = ProjectSpec(dataset="digits")
    assert not worth_a_run(["spec.samples.enabled: False -> True", "spec.samples.random: 0.25 -> 1.0"], spec)
    assert not worth_a_run(
        ["spec.retraining.quiet_hours: [] -> ['08:00-20:00']", "spec.rollout.soak_seconds: 1 -> 2"], spec
    )
    assert worth_a_run(["spec.samples.enabled: False -> True", "spec.training.epochs: 3 -> 4"], spec)
    assert worth_a_run(["new project"], spec)
    assert not worth_a_run(["new project"], ProjectSpec())


def test_a_policy_that_chooses_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="enabled: false"):
        SamplingSpec(enabled=True, least_confident=0, novel=0, random=0)
