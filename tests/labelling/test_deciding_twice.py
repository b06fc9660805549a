"""Two people decide about the same picture: nobody is overruled unseen, and all that was said is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from milonga_hub.devices.service import MeasuringPolicy
from milonga_hub.errors import DecidedMeanwhile
from milonga_hub.labelling import rules_history
from milonga_hub.labelling.models import Decision, QueuedSample, SampleState

from tests.devices.world import START, World
from tests.labelling.floor import Floor
from tests.labelling.test_labelling import _arrived

LABELLED, SKIPPED, WAITING = SampleState.LABELLED, SampleState.SKIPPED, SampleState.WAITING


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Floor]:
    floor = Floor(World(tmp_path, MeasuringPolicy()))
    floor.apply(enabled=True)
    yield floor


def _said(sample: QueuedSample) -> list[tuple[SampleState, str, str]]:
    return [(one.state, one.by, one.label) for one in sample.history]


def test_who_labels_what_another_has_labelled_meanwhile_is_told_and_changes_nothing(hub: Floor) -> None:
    seen = _arrived(hub, 1)
    hub.labelling.label(seen.name, "nut", decided_by="kim", revision=seen.revision)
    with pytest.raises(
        DecidedMeanwhile, match=f"kim labelled it nut on {START:%Y-%m-%d at %H:%M} UTC, after you looked"
    ):
        hub.labelling.label(seen.name, "bolt", decided_by="lee", revision=seen.revision)
    with pytest.raises(DecidedMeanwhile, match="milonga samples show parts/"):
        hub.labelling.skip(seen.name, "lee", seen.revision)
    assert (hub.labelling.get(seen.name).label, hub.labelling.get(seen.name).decided_by) == ("nut", "kim")


def test_who_has_seen_the_other_label_may_replace_it_and_both_are_kept(hub: Floor) -> None:
    first = hub.labelling.label(_arrived(hub, 1).name, "nut", decided_by="kim")
    hub.world.clock.advance(60)
    second = hub.labelling.label(first.name, "bolt", decided_by="lee", revision=first.revision)
    assert (second.label, second.decided_by) == ("bolt", "lee")
    assert _said(second) == [(LABELLED, "kim", "nut"), (LABELLED, "lee", "bolt")]
    assert [(one.at - START).total_seconds() for one in second.history] == [0, 60]


def test_who_names_no_revision_changes_their_own_answer_and_nobody_elses(hub: Floor) -> None:
    name = hub.labelling.label(_arrived(hub, 1).name, "nut", decided_by="kim").name
    mine = hub.labelling.label(name, "bolt", decided_by="kim")
    for change in (hub.labelling.skip, hub.labelling.undo):
        with pytest.raises(DecidedMeanwhile, match=f"kim labelled it bolt on .*--replace, or .*{mine.revision}"):
            change(name, "lee")
    with pytest.raises(DecidedMeanwhile, match="nothing is changed"):
        hub.labelling.label(name, "nut", decided_by="lee")
    assert hub.labelling.label(name, "bolt", decided_by="lee").decided_by == "kim"
    assert hub.labelling.skip(name, "lee", mine.revision).state is SKIPPED


def test_who_says_the_same_is_not_troubled_with_it(hub: Floor) -> None:
    seen = _arrived(hub, 1)
    hub.labelling.label(seen.name, "nut", decided_by="kim", revision=seen.revision)
    again = hub.labelling.label(seen.name, "nut", decided_by="lee", revision=seen.revision)
    assert (again.decided_by, len(again.history)) == ("kim", 1)


def test_what_was_taken_back_or_skipped_is_in_the_history(hub: Floor) -> None:
    labelled = hub.labelling.label(_arrived(hub, 1).name, "nut", decided_by="kim")
    undone = hub.labelling.undo(labelled.name, "lee", labelled.revision)
    with pytest.raises(DecidedMeanwhile, match="lee let it wait again"):
        hub.labelling.undo(labelled.name, "kim", labelled.revision)
    assert (undone.state, undone.decided_by, undone.decided_at) == (WAITING, "", None)
    skipped = hub.labelling.skip(labelled.name, "ann")
    assert _said(skipped) == [(LABELLED, "kim", "nut"), (WAITING, "lee", ""), (SKIPPED, "ann", "")]
    with pytest.raises(DecidedMeanwhile, match="ann skipped it"):
        hub.labelling.label(labelled.name, "nut", revision=undone.revision)


def test_the_first_of_two_answers_neither_hinders_nor_shows_itself_to_the_second(hub: Floor) -> None:
    hub.apply(enabled=True, second_opinions=1.0)
    seen = _arrived(hub, 1)
    first = hub.labelling.label(seen.name, "nut", decided_by="kim", revision=seen.revision)
    assert (first.revision, first.history) == (seen.revision, [])
    both = hub.labelling.label(seen.name, "bolt", decided_by="lee", revision=seen.revision)
    assert both.state is SampleState.CONFLICT
    assert sorted(_said(both)) == [(LABELLED, "kim", "nut"), (LABELLED, "lee", "bolt")]
    with pytest.raises(DecidedMeanwhile, match="kim: nut; lee: bolt"):
        hub.labelling.label(seen.name, "nut", decided_by="ann", revision=seen.revision)
    # Whose answer is waited with is hidden again.
    undone = hub.labelling.undo(seen.name, "lee", both.revision)
    assert _said(undone) == [(LABELLED, "lee", "bolt"), (WAITING, "lee", "")]
    agreed = hub.labelling.label(seen.name, "nut", decided_by="ann", revision=undone.revision)
    assert agreed.state is LABELLED and len(agreed.history) == 4


def test_what_was_decided_before_histories_were_kept_is_not_lost_when_it_is_replaced() -> None:
    before = QueuedSample(
        name="projects/parts/samples/1", project="parts", digest="", device="pi-1",
        state=LABELLED, label="nut", decided_by="kim", decided_at=START,
    )  # fmt: skip
    after = rules_history.noted(before, Decision(state=LABELLED, by="lee", at=START, label="bolt"))
    assert [(one.by, one.label) for one in after] == [("kim", "nut"), ("lee", "bolt")]


def test_people_who_change_their_minds_for_ever_fill_no_disk() -> None:
    sample = QueuedSample(name="projects/parts/samples/1", project="parts", digest="", device="pi-1")
    for number in range(120):
        sample.history = rules_history.noted(sample, Decision(state=LABELLED, by="kim", at=START, label=str(number)))
    assert [sample.history[0].label, sample.history[-1].label] == ["20", "119"]
