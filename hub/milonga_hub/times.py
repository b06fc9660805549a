"""Schedules as cron writes them, hours of the day, and windows of the week, in a time zone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from milonga_hub.errors import InvalidInput

# Five fields; `h` and `r` would stand for other times whenever they are read.
_CRON = re.compile(r"(?!.*(?<![a-z])[hr](?![a-z]))[a-z0-9*,/#-]+( [a-z0-9*,/#-]+){4}", re.IGNORECASE)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?:([a-z,-]+) )?([\d:]+-[\d:]+)", re.IGNORECASE)
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def zone(name: str) -> ZoneInfo:
    """Raises InvalidInput for a zone that there is not."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"there is no time zone {name!r}; write for example UTC, Asia/Seoul") from error


def check_schedule(schedule: str, time_zone: str) -> None:
    """Raises InvalidInput for what is no schedule, or one that never comes."""
    next_time(schedule, time_zone, datetime(2000, 1, 1, tzinfo=UTC))


def next_time(schedule: str, time_zone: str, after: datetime) -> datetime:
    """Return the first time of the schedule after a moment. Raises InvalidInput where it has none."""
    # Here: a hub whose projects have no schedule does without.
    from croniter import croniter
    from croniter.croniter import CroniterBadDateError, CroniterError

    if not _CRON.fullmatch(schedule):
        raise InvalidInput(
            f"{schedule!r} is no schedule; write minute, hour, day, month, weekday, such as '0 3 * * sat'"
        )
    try:
        times = croniter(schedule, after.astimezone(zone(time_zone)))
        found: datetime = times.get_next(datetime)
        # When clocks are set back an hour comes twice; the first counts.
        while found.fold:
            found = times.get_next(datetime)
    except CroniterBadDateError as error:
        raise InvalidInput(f"{schedule!r} is a schedule that never comes; see its day and month") from error
    except (CroniterError, ValueError) as error:
        raise InvalidInput(f"{schedule!r} is no schedule: {error}") from error
    return found.astimezone(UTC)


def hours(text: str) -> tuple[time, time]:
    """Return start and end of "22:00-06:00"; an end that is earlier is on the next day. Raises InvalidInput."""
    found = _HOURS.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{text!r} are no hours of a day; write them as 22:00-06:00")
    start, end = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
    if start == end:
        raise InvalidInput(f"{text!r} ends where it starts; write other hours, or leave it out")
    return start, end


def is_within(all_hours: Sequence[str], time_zone: str, now: datetime) -> bool:
    """Whether now is in one of the hours; their end is not."""
    clock = now.astimezone(zone(time_zone)).time()
    return any(
        start <= clock < end if start < end else clock >= start or clock < end for start, end in map(hours, all_hours)
    )


def free_at(all_hours: Sequence[str], time_zone: str, now: datetime) -> datetime | None:
    """Return when it is in none of the hours, now where it is in none already, None where they fill the day."""
    if not is_within(all_hours, time_zone, now):
        return now
    place = zone(time_zone)
    today = now.astimezone(place).date()
    ends = [
        datetime.combine(today + timedelta(days=day), end, place).astimezone(UTC)
        for day in range(3)
        for _, end in map(hours, all_hours)
    ]
    return next((end for end in sorted(ends) if end > now and not is_within(all_hours, time_zone, end)), None)


@dataclass(frozen=True)
class Window:
    """Hours on some days of the week; days count from Monday, and hours past midnight belong to the day before."""

    days: frozenset[int]
    start: time
    end: time

    def on(self, day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """Return when the window of that day opens and closes."""
        last = day if self.start < self.end else day + timedelta(days=1)
        opens, closes = datetime.combine(day, self.start, zone), datetime.combine(last, self.end, zone)
        return opens.astimezone(UTC), closes.astimezone(UTC)


def window(text: str) -> Window:
    """Return the window of "sat,sun 02:00-05:00", "mon-fri 22:00-06:00" or, for every day, "01:00-04:00". Raises InvalidInput."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{text!r} is no window; write days and hours, such as 'sat,sun 02:00-05:00'")
    start, end = hours(found[2])
    days = [day for part in (found[1] or "mon-sun").lower().split(",") for day in _days(part, text)]
    return Window(frozenset(days), start, end)


def _days(part: str, text: str) -> list[int]:
    first, dash, last = part.partition("-")
    names = [first, last] if dash else [first]
    if unknown := [name for name in names if name not in _DAYS]:
        raise InvalidInput(f"{text!r}: {unknown[0]!r} is no day; there are {', '.join(_DAYS)}")
    begin = _DAYS.index(first)
    count = (_DAYS.index(last) - begin) % 7 + 1 if dash else 1
    return [(begin + step) % 7 for step in range(count)]


def opening(windows: Sequence[Window], zone: ZoneInfo, now: datetime) -> datetime:
    """Return now where one of the windows is open, otherwise when the next one opens."""
    today = now.astimezone(zone).date()
    # From yesterday's, which may reach past midnight, to this weekday of next week.
    days = [today + timedelta(days=offset) for offset in range(-1, 9)]
    times = [each.on(day, zone) for day in days for each in windows if day.weekday() in each.days]
    # Where clocks are set forward a window may vanish for a day.
    ahead = [(opens, closes) for opens, closes in times if now < closes and opens < closes]
    return max(now, min((opens for opens, _ in ahead), default=now + timedelta(days=1)))
