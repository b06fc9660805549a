"""Who may lead, who is there, and who may come to others: decided by the database's clock alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from milonga_hub.hubs import rules
from milonga_hub.hubs.models import HubMember, HubState
from milonga_hub.hubs.rules import Held

NOW = datetime(2026, 11, 27, 3, 0, tzinfo=UTC)
LATER, BEFORE = NOW + timedelta(seconds=3), NOW - timedelta(seconds=1)


def member(name: str, seconds_ago: float = 0.0, folder: str = "f", broker: str = "mqtts://b") -> HubMember:
    return HubMember(
        id=name, name=name, seen_at=NOW - timedelta(seconds=seconds_ago), folder=folder, broker=broker, revision="0004"
    )


@pytest.mark.parametrize(
    ("held", "may"),
    [
        (Held("", BEFORE, alive=False), True),
        (Held("other", LATER, alive=True), False),
        (Held("other", LATER, alive=False), True),
        (Held("other", BEFORE, alive=True), True),
        (Held("me", LATER, alive=True), True),
    ],
    ids=["nobody has it", "another has it", "its holder is gone", "its holder says nothing", "it was this hub's"],
)
def test_a_hub_takes_the_lead_where_nobody_has_it(held: Held, may: bool) -> None:
    assert rules.may_take(held, "me", NOW, knows_tables=True) is may
    assert not rules.may_take(held, "me", NOW, knows_tables=False)


def test_who_renews_three_times_a_lease_loses_none_by_one_late_beat() -> None:
    assert 3 * rules.BEAT_SECONDS <= rules.LEASE.total_seconds() < rules.AWAY.total_seconds()


def test_a_hub_that_says_nothing_is_lost_even_where_it_led() -> None:
    assert rules.state_of(member("a"), "a", NOW) is HubState.LEADING
    assert rules.state_of(member("b"), "a", NOW) is HubState.SERVING
    assert rules.state_of(member("a", seconds_ago=11), "a", NOW) is HubState.LOST


def test_hubs_beside_each_other_share_folder_and_broker() -> None:
    first = member("a")
    assert rules.why_not_beside(member("b"), [first]) == ""
    assert "data folder (a)" in rules.why_not_beside(member("b", folder="g"), [first])
    assert "mqtts://c" in rules.why_not_beside(member("b", broker="mqtts://c"), [first])
    assert "--broker" in rules.why_not_beside(member("b", broker=""), [first])
    assert "--broker" in rules.why_not_beside(member("b"), [member("a", broker="")])
    assert rules.why_not_beside(member("b", broker=""), []) == ""


def test_tables_change_under_hubs_only_where_each_step_adds() -> None:
    assert rules.why_not_change("0004", [("0005", True)], ["a"]) == ""
    assert "0006" in rules.why_not_change("0004", [("0005", True), ("0006", False)], ["a"])
    assert rules.why_not_change("0004", [("0006", False)], []) == ""
