"""Find out which of some models is the fastest on devices of a type: those that are close are measured in turn until it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from math import inf

from milonga_hub.devices.measuring import Measuring, OnProgress
from milonga_hub.devices.models import Measurement
from milonga_hub.devices.rules_comparing import Ratio, Round, next_round, standing
from milonga_hub.devices.values import MeasurementItem

# Hears in words what is measured in turn, and in which round.
OnRound = Callable[[str], None]


class Comparing:
    """Has devices measure models in rounds. What each round found is kept, so a hub that is killed begins none anew."""

    def __init__(self, measuring: Measuring, max_seconds: float) -> None:
        self._measuring = measuring
        self._max_seconds = max_seconds

    async def compare(
        self,
        device_type: str,
        items: Sequence[MeasurementItem],
        run: str,
        purpose: str,
        on_progress: OnProgress,
        on_round: OnRound,
    ) -> list[Measurement]:
        """Return one measurement for each item, in their order; failed ones carry an error.

        Medians of those that ran are told in times of the fastest one's, so the lowest is the fastest's.
        """
        first = await self._measuring.measure(device_type, items, run, purpose, on_progress, turn=1)
        by_name = {str(number): one for number, one in enumerate(first)}
        rounds, failed = _by_device(by_name), {name for name, one in by_name.items() if one.median_ms is None}
        if not rounds:
            return first
        turn, loop = 1, asyncio.get_running_loop()
        end = loop.time() + self._max_seconds
        while (going := next_round(rounds, failed)) and loop.time() < end:
            turn += 1
            some = [items[int(name)] for name in going]
            on_round(_said(device_type, some, turn))
            try:
                async with asyncio.timeout_at(end):
                    found = await self._measuring.measure(device_type, some, run, purpose, lambda *_: None, turn=turn)
            except TimeoutError:
                break
            measured = dict(zip(going, found, strict=True))
            rounds += _by_device(measured)
            failed |= {name for name, one in measured.items() if one.median_ms is None}
        return _told(by_name, rounds)


def _said(device_type: str, items: Sequence[MeasurementItem], turn: int) -> str:
    targets = ", ".join(f"{each.engine}/{each.precision}" for each in items)
    return f"{device_type}: measures {targets} in turn, round {turn}"


def _by_device(measured: Mapping[str, Measurement]) -> list[Round]:
    """Return what was measured as rounds of one device each."""
    found: dict[str, dict[str, float]] = {}
    for name, one in measured.items():
        if one.median_ms is not None:
            found.setdefault(one.device, {})[name] = one.median_ms
    return list(found.values())


def _told(first: Mapping[str, Measurement], rounds: Sequence[Round]) -> list[Measurement]:
    """Return the first measurements with the medians that all rounds make of them."""
    now = standing(rounds)
    return [one.model_copy(update=_figures(one, now.ms, now.ratios.get(name))) for name, one in first.items()]


def _figures(one: Measurement, fastest_ms: float, ratio: Ratio | None) -> dict[str, float]:
    if ratio is None:
        return {}
    known = {"median_half_width_ms": fastest_ms * (ratio.high - ratio.low) / 2} if ratio.high < inf else {}
    return {"median_ms": fastest_ms * ratio.value, **known}
