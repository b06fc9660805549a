"""What was decided of a picture, one after the other, and how that is told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from milonga_hub.labelling.models import Decision, Opinion, QueuedSample, SampleState, SampleView
from milonga_hub.labelling.rules_agreement import shown

# People who change their minds more often than that are told of the newest.
_MOST_KEPT = 100
_DECIDED = (SampleState.LABELLED, SampleState.SKIPPED)


def decision(said: Opinion, state: SampleState, now: datetime) -> Decision:
    """Return what was said as a decision: at its own time, else now."""
    return Decision(state=state, by=said.by, at=said.at or now, label=said.label, boxes=said.boxes)


def noted(sample: SampleView, *further: Decision) -> list[Decision]:
    """Return the sample's history with what is not in it yet, the oldest first."""
    found = list(sample.history)
    if not found and sample.state in _DECIDED and sample.decided_at is not None:
        # From before histories were kept.
        present = Opinion(by=sample.decided_by, label=sample.label, boxes=sample.boxes)
        found.append(decision(present, sample.state, sample.decided_at))
    found.extend(one for one in further if one not in found)
    return sorted(found, key=lambda one: one.at)[-_MOST_KEPT:]


def says(sample: SampleView, state: SampleState, said: Opinion) -> bool:
    """Return whether that is what is decided already."""
    return (sample.state, sample.label, sample.boxes) == (state, said.label, said.boxes)


def told(sample: SampleView, history: Sequence[Decision]) -> str:
    """Return what became of the sample meanwhile: "kim labelled it nut on 2026-11-28 at 12:03 UTC"."""
    if sample.state is SampleState.CONFLICT or not history:
        return sample.message or "it was changed"
    last = history[-1]
    what = {
        SampleState.LABELLED: f"labelled it {shown(last)}",
        SampleState.SKIPPED: "skipped it",
    }.get(last.state, "let it wait again")
    return f"{last.by or 'somebody'} {what} on {last.at:%Y-%m-%d at %H:%M} UTC"


def overruled(sample: QueuedSample, by: str, revision: int | None) -> str:
    """Return what `by` would replace unseen, and how it is replaced nevertheless; empty where that is nothing.

    Who names no `revision` has seen what they said themselves, and no more.
    """
    if revision is None:
        is_unseen = sample.state in _DECIDED and sample.decided_by != by
        when, how = "", f"write --replace, or name its revision ({sample.revision}) in the API"
    else:
        is_unseen = revision != sample.revision
        when, how = ", after you looked", "decide again"
    return f"{told(sample, noted(sample))}{when}; nothing is changed. To replace that, {how}" if is_unseen else ""
