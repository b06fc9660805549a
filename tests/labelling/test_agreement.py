"""Two people are asked about the same picture: what becomes of it, and how well they agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from milonga_hub.devices.service import MeasuringPolicy
from milonga_hub.labelling.models import Opinion, QueuedSample, SampleBox, SampleState
from milonga_hub.labelling.rules_agreement import agree, agreement, asked_twice, told

from tests.devices.world import World
from tests.labelling.floor import Floor
from tests.labelling.test_labelling import _arrived


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Floor]:
    """Return a hub whose project asks two people about everything."""
    floor = Floor(World(tmp_path, MeasuringPolicy()))
    floor.apply(enabled=True, second_opinions=1.0)
    yield floor


def _asked(hub: Floor, who: str) -> list[str]:
    return [one.name for one in hub.labelling.list("parts", SampleState.WAITING, asker=who)[0]]


def _disputed(hub: Floor) -> QueuedSample:
    sample = _arrived(hub, 1)
    hub.labelling.label(sample.name, "nut", decided_by="kim")
    return hub.labelling.label(sample.name, "bolt", decided_by="lee")


def test_the_first_answer_waits_for_somebody_else_who_does_not_see_it(hub: Floor) -> None:
    sample = _arrived(hub, 1)
    first = hub.labelling.label(sample.name, "nut", decided_by="kim")
    assert (first.state, first.label, first.decided_by) == (SampleState.WAITING, "", "")
    assert (_asked(hub, "kim"), _asked(hub, "lee")) == ([], [sample.name])
    assert hub.labelling.add_labelled("parts") == ("", 0)


def test_what_two_people_agree_on_is_the_label(hub: Floor) -> None:
    sample = _arrived(hub, 1)
    hub.labelling.label(sample.name, "nut", decided_by="kim")
    both = hub.labelling.label(sample.name, "nut", decided_by="lee")
    assert (both.state, both.label) == (SampleState.LABELLED, "nut")
    found = hub.labelling.summary("parts").agreement
    assert found is not None and (found.pictures, found.agreed) == (1, 1)
    assert hub.labelling.add_labelled("parts")[1] == 1


def test_what_two_people_disagree_on_is_listed_until_somebody_decides(hub: Floor) -> None:
    sample = _disputed(hub)
    assert (sample.state, sample.label, sample.message) == (SampleState.CONFLICT, "", "kim: nut; lee: bolt")
    assert (_asked(hub, "ann"), hub.labelling.summary("parts").conflicts) == ([], 1)
    assert hub.labelling.add_labelled("parts") == ("", 0)
    decided = hub.labelling.label(sample.name, "nut", decided_by="ann")
    assert (decided.state, decided.label, decided.decided_by, decided.message) == (
        SampleState.LABELLED, "nut", "ann", "",
    )  # fmt: skip
    # What was decided later does not make them agree.
    found = hub.labelling.summary("parts").agreement
    assert found is not None and (found.pictures, found.agreed) == (1, 0)


def test_who_answers_again_before_the_second_person_changes_only_their_own_answer(hub: Floor) -> None:
    sample = _arrived(hub, 1)
    hub.labelling.label(sample.name, "nut", decided_by="kim")
    hub.labelling.label(sample.name, "bolt", decided_by="kim")
    assert hub.labelling.label(sample.name, "bolt", decided_by="lee").state is SampleState.LABELLED


def test_undoing_takes_back_ones_own_answer_alone(hub: Floor) -> None:
    sample = _disputed(hub)
    hub.labelling.undo(sample.name, "lee")
    assert (_asked(hub, "kim"), _asked(hub, "lee")) == ([], [sample.name])
    assert hub.labelling.summary("parts").agreement is None
    hub.labelling.undo(sample.name, "kim")
    assert _asked(hub, "kim") == [sample.name]


def test_a_decision_that_is_undone_asks_two_people_anew(hub: Floor) -> None:
    sample = _disputed(hub)
    hub.labelling.label(sample.name, "nut", decided_by="ann")
    undone = hub.labelling.undo(sample.name, "ann")
    assert (undone.state, undone.opinions, _asked(hub, "kim")) == (SampleState.WAITING, [], [sample.name])


def test_where_no_second_person_comes_for_a_week_the_first_answer_holds(hub: Floor) -> None:
    sample = _arrived(hub, 1)
    hub.labelling.label(sample.name, "nut", decided_by="kim")
    hub.world.clock.advance(timedelta(days=6).total_seconds())
    hub.labelling.tidy()
    assert hub.labelling.get(sample.name).state is SampleState.WAITING
    hub.world.clock.advance(timedelta(days=2).total_seconds())
    hub.labelling.tidy()
    after = hub.labelling.get(sample.name)
    assert (after.state, after.label, after.decided_by) == (SampleState.LABELLED, "nut", "kim")
    assert hub.labelling.summary("parts").agreement is None


def test_skipping_needs_one_person(hub: Floor) -> None:
    sample = _arrived(hub, 1)
    hub.labelling.label(sample.name, "nut", decided_by="kim")
    assert hub.labelling.skip(sample.name, "lee").state is SampleState.SKIPPED


def test_a_share_of_the_pictures_is_asked_about_twice_always_the_same_ones() -> None:
    names = [f"projects/parts/samples/{number}" for number in range(2000)]
    tenth = {name for name in names if asked_twice(name, 0.1)}
    assert 150 < len(tenth) < 250
    assert tenth < {name for name in names if asked_twice(name, 0.2)}
    assert not any(asked_twice(name, 0.0) for name in names)
    assert all(asked_twice(name, 1.0) for name in names)


def _pairs(*said: tuple[str, str]) -> Sequence[tuple[Opinion, Opinion]]:
    return [(Opinion(by="kim", label=one), Opinion(by="lee", label=other)) for one, other in said]


def test_kappa_tells_agreement_beyond_chance() -> None:
    """The 2 by 2 table 20, 5, 10, 15 has a kappa of 0.4: Po = .7, Pe = .5."""
    said = [("a", "a")] * 20 + [("a", "b")] * 5 + [("b", "a")] * 10 + [("b", "b")] * 15
    found = agreement(_pairs(*said))
    assert found is not None and (found.pictures, found.agreed) == (50, 35)
    assert [(one.label, one.pictures, round(one.kappa or 0.0, 3)) for one in found.classes] == [
        ("a", 35, 0.4),
        ("b", 30, 0.4),
    ]


def test_kappa_is_not_known_where_everybody_always_says_the_same() -> None:
    found = agreement(_pairs(("a", "a"), ("a", "a")))
    assert found is not None and found.classes[0].kappa is None
    assert agreement([]) is None


def test_people_agree_on_objects_whose_boxes_meet_one_by_one() -> None:
    def seen(by: str, *boxes: tuple[str, float]) -> Opinion:
        placed = [SampleBox(label=name, x=x, y=0.5, width=0.2, height=0.2) for name, x in boxes]
        return Opinion(by=by, boxes=placed)

    one = seen("kim", ("nut", 0.3), ("bolt", 0.7))
    assert agree(one, seen("lee", ("bolt", 0.71), ("nut", 0.3)))
    assert not agree(one, seen("lee", ("nut", 0.3)))
    assert not agree(one, seen("lee", ("nut", 0.3), ("bolt", 0.9)))
    assert agree(seen("kim"), seen("lee"))
    assert told([one, seen("lee")]) == "kim: 1 nut, 1 bolt; lee: no object"
