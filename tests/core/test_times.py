"""Windows of the week, wherever a device stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.errors import InvalidInput
from milonga_hub.times import opening, window

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
ZONES = st.sampled_from(["UTC", "Asia/Seoul", "America/New_York", "Australia/Lord_Howe"]).map(ZoneInfo)


@pytest.mark.parametrize(
    ("text", "hours_ahead"),
    [("00:00-01:00", 0), ("mon 05:00-06:00", 5), ("sat,sun 02:00-05:00", 5 * 24 + 2), ("fri-mon 22:00-06:00", 0)],
)
def test_a_window_opens_next_where_it_is_written(text: str, hours_ahead: int) -> None:
    assert opening([window(text)], ZoneInfo("UTC"), MONDAY) == MONDAY + timedelta(hours=hours_ahead)


def test_hours_past_midnight_belong_to_the_day_before() -> None:
    sunday_night = [window("sun 22:00-06:00")]
    assert opening(sunday_night, ZoneInfo("UTC"), MONDAY) == MONDAY
    assert opening(sunday_night, ZoneInfo("UTC"), MONDAY + timedelta(hours=6)) == MONDAY + timedelta(days=6, hours=22)


def test_each_device_has_its_own_night() -> None:
    night = [window("02:00-04:00")]
    assert opening(night, ZoneInfo("Asia/Seoul"), MONDAY) == MONDAY + timedelta(hours=17)
    assert opening(night, ZoneInfo("America/New_York"), MONDAY) == MONDAY + timedelta(hours=7)


@pytest.mark.parametrize(
    "text", ["", "mon", "2-4", "someday 02:00-04:00", "mon,,tue 02:00-04:00", "02:00-02:00", "25:00-26:00"]
)
def test_what_is_no_window_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput):
        window(text)


@given(
    st.lists(st.sampled_from(["02:00-03:00", "sat 22:00-02:00", "mon-fri 00:00-23:59", "sun 01:30-02:30"]), min_size=1),
    ZONES,
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001
)
def test_it_is_open_when_it_opens_and_that_is_never_before_now(
    texts: list[str], zone: ZoneInfo, naive: datetime
) -> None:
    now, windows = naive.replace(tzinfo=UTC), [window(text) for text in texts]
    opens = opening(windows, zone, now)
    assert now <= opens <= now + timedelta(days=9)
    assert opening(windows, zone, opens) == opens
