"""When a policy wants a run, and whether it may have one now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from milonga_hub.labelling.models import LabelledAccuracy
from milonga_hub.projects.models import AccuracyTrigger, DriftTrigger, RetrainingPolicy
from milonga_hub.runs.models import Run, RunState, Trigger
from milonga_hub.runs.rules import AUTOMATIC, ENDED
from milonga_hub.runs.rules_labelled import chance_of_so_few
from milonga_hub.telemetry.models import DriftEvent, Estimate
from milonga_hub.times import free_at, next_time, zone

_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)
# Of a version that is as accurate as asked for, in all its time: one side of a 95 % interval.
_SELDOM = 0.025


@dataclass(frozen=True)
class Accuracy:
    """What share of the answers of a served version is right, and whether a run has been started for it."""

    model_version: str
    estimate: Estimate | None = None
    labelled: LabelledAccuracy | None = None
    # With the data that there is now: it would come to the same.
    answered: bool = False


@dataclass(frozen=True)
class Evidence:
    """What there is to answer: drift that no run has, labels that no run learned from, the time since the last run."""

    # Answers to the schedule begin here: when the project changed last, or its last run was made.
    since: datetime
    drift: Sequence[DriftEvent] = ()
    # The project's devices, by type.
    fleet: Mapping[str, Collection[str]] = field(default_factory=dict)
    unlearned_labels: int = 0
    # Of those, the ones that came since a run last started by itself: one that failed is not started again and again.
    unasked_labels: int = 0
    # The newest version of the data set.
    dataset_version: str = ""
    accuracy: Accuracy | None = None


@dataclass(frozen=True)
class Retraining:
    """Why a policy starts a run, and the events that it answers. Equal keys are for one run."""

    trigger: Trigger
    reason: str
    key: str
    event_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hold:
    """Why no run may start by itself now, and until when; None where no clock tells."""

    why: str
    until: datetime | None = None


class Due(NamedTuple):
    """A run that a policy calls for, and what it waits for; None for nothing."""

    run: Retraining
    hold: Hold | None


def retraining_due(policy: RetrainingPolicy, evidence: Evidence, runs: Sequence[Run], now: datetime) -> Due | None:
    """Return the run that the policy calls for, and what holds it back, be it too little drift; None while there is nothing to answer.

    `runs` are the project's: at least those of the last week, of the cool-down, and in progress.
    """
    run = called_for(policy, evidence, now)
    return _short_of_evidence(policy.drift, evidence) if run is None else Due(run, held_back(policy, runs, now))


def called_for(policy: RetrainingPolicy, evidence: Evidence, now: datetime) -> Retraining | None:
    """Return the run that the policy calls for, whether or not it may start now; None while there is nothing to answer."""
    found = list(_calls(policy, evidence, now))
    if not found:
        return None
    # One run answers them all.
    reason = "; ".join(call.reason for call in found)
    return Retraining(found[0].trigger, reason, found[0].key, tuple(one for call in found for one in call.event_ids))


def _short_of_evidence(trigger: DriftTrigger, evidence: Evidence) -> Due | None:
    """Return the run that drift calls for once more devices show it, or more new labels came; None without drift."""
    if not (trigger.enabled and evidence.drift):
        return None
    if _of_quorum(trigger, evidence):
        why = f"{evidence.unlearned_labels} of {trigger.min_new_labels} new labelled pictures have come"
    elif trigger.quorum_share is not None:
        why = (
            f"drift on fewer than {trigger.quorum} device(s) of one type, or less than {trigger.quorum_share:.0%} of it"
        )
    else:
        why = f"drift on {len({event.device for event in evidence.drift})} device(s); the quorum is {trigger.quorum}"
        count = sum(len(devices) for devices in evidence.fleet.values())
        if count < trigger.quorum:
            why += f", and the project has {count} in all"
    return Due(_answer_to_drift(trigger, evidence.drift, evidence), Hold(why))


def held_back(policy: RetrainingPolicy, runs: Sequence[Run], now: datetime) -> Hold | None:
    """Return what keeps a run from starting by itself, for longest: one in progress, quiet hours, cool-down or budget; None for nothing.

    What is stamped later than now counts, too: a clock that was set back buys no runs.
    """
    in_progress = next((run for run in runs if run.state not in ENDED), None)
    if in_progress is not None and in_progress.state is RunState.AWAITING_APPROVAL:
        number = in_progress.number
        return Hold(f"run {number} waits for approval: milonga runs approve {in_progress.project}/{number}")
    if in_progress is not None:
        return Hold(f"run {in_progress.number} has not ended yet")
    holds = [*_holds(policy, runs, now)]
    return next((hold for hold in holds if hold.until is None), None) or max(holds, key=_end, default=None)


def _holds(policy: RetrainingPolicy, runs: Sequence[Run], now: datetime) -> Iterator[Hold]:
    free = free_at(policy.quiet_hours, policy.time_zone, now)
    if free != now:
        yield Hold(f"quiet hours, {', '.join(policy.quiet_hours)} ({policy.time_zone})", free)
    ended = [run.ended_at for run in runs if run.ended_at is not None]
    if ended and now - max(ended) < policy.cool_down:
        yield Hold(f"cool-down of {policy.cool_down_seconds:g} s", max(ended) + policy.cool_down)
    budgets = ((policy.max_runs_per_day, _DAY, "24 hours"), (policy.max_runs_per_week, _WEEK, "7 days"))
    began = sorted(run.created_at for run in runs if run.trigger in AUTOMATIC)
    for most, period, words in budgets:
        counted = [when for when in began if now - when < period]
        if most and len(counted) >= most:
            yield Hold(f"budget of {most} in {words}", counted[-most] + period)


def _end(hold: Hold) -> datetime:
    assert hold.until is not None, "holds without an end were looked at before"
    return hold.until


def look_back(policy: RetrainingPolicy) -> timedelta:
    """Return how old the runs may be that held_back() has to see."""
    return max(_WEEK, policy.cool_down)


def _calls(policy: RetrainingPolicy, evidence: Evidence, now: datetime) -> Iterator[Retraining]:
    """Yield what calls for a run, the strongest evidence first."""
    if (low := _too_low(policy.accuracy, evidence.accuracy)) is not None:
        key = accuracy_key(low.model_version, evidence.dataset_version)
        yield Retraining(Trigger.ACCURACY, _accuracy_in_words(policy.accuracy, low), key)
    events = _of_quorum(policy.drift, evidence)
    if policy.drift.enabled and events and evidence.unlearned_labels >= policy.drift.min_new_labels:
        yield _answer_to_drift(policy.drift, events, evidence)
    if policy.new_labels and evidence.unasked_labels >= policy.new_labels:
        words = f"{evidence.unasked_labels} new labelled pictures ({policy.new_labels} start a run)"
        yield Retraining(Trigger.NEW_LABELS, words, f"labels:{evidence.dataset_version}")
    if policy.schedule:
        due_at = next_time(policy.schedule, policy.time_zone, evidence.since)
        if due_at <= now:
            local = due_at.astimezone(zone(policy.time_zone))
            words = f"schedule {policy.schedule!r}, due since {local:%Y-%m-%d %H:%M} {policy.time_zone}"
            yield Retraining(Trigger.SCHEDULE, words, f"schedule:{due_at.isoformat()}")


def _answer_to_drift(trigger: DriftTrigger, events: Sequence[DriftEvent], evidence: Evidence) -> Retraining:
    words = _drift_in_words(trigger, events, evidence)
    # The oldest event names the run: drift that is told of twice is answered once.
    return Retraining(Trigger.DRIFT, words, f"drift:{events[0].id}", tuple(event.id for event in events))


def _of_quorum(trigger: DriftTrigger, evidence: Evidence) -> list[DriftEvent]:
    """Return the drift if enough devices show it: in all, or with a share asked for, of one type."""
    drifted = {event.device for event in evidence.drift}
    if trigger.quorum_share is None:
        return list(evidence.drift) if len(drifted) >= trigger.quorum else []
    for devices in evidence.fleet.values():
        some = drifted.intersection(devices)
        if devices and len(some) >= max(trigger.quorum, trigger.quorum_share * len(devices)):
            return list(evidence.drift)
    return []


def accuracy_key(model_version: str, dataset_version: str) -> str:
    """Return what names the run: one for each version and state of the data set."""
    return f"accuracy:{model_version}:{dataset_version}"


def _too_low(trigger: AccuracyTrigger, found: Accuracy | None) -> Accuracy | None:
    """Return the accuracy where it is lower than is asked for by more than chance explains; labels are asked first.

    Labels are looked at each time that one comes, which chance_of_so_few allows for. The confidence of a day's answers is not evidence that
    piles up: there the upper end of the estimate's interval decides, which is as wide as the few validation pictures make it.
    """
    if trigger.below is None or found is None or found.answered:
        return None
    labelled, estimate = found.labelled, found.estimate
    if labelled is not None and labelled.labelled >= trigger.min_labels:
        chance = chance_of_so_few(labelled.right, labelled.labelled, trigger.below)
        return replace(found, estimate=None) if chance <= _SELDOM else None
    enough = estimate is not None and estimate.answer_count >= trigger.min_samples
    return replace(found, labelled=None) if enough and estimate and estimate.high < trigger.below else None


def _accuracy_in_words(trigger: AccuracyTrigger, found: Accuracy) -> str:
    labelled, estimate = found.labelled, found.estimate
    if labelled is not None:
        right = f"{labelled.right} of {labelled.labelled} labelled answers of {found.model_version} are right"
        return f"{right} ({labelled.low:.1%} to {labelled.high:.1%}; {trigger.below:.1%} asked for)"
    if estimate is None:
        raise ValueError("accuracy is told by labels or by confidence")
    return (
        f"about {estimate.accuracy:.1%} of {estimate.answer_count} answers of {found.model_version} are right, by its confidence"
        f" ({estimate.low:.1%} to {estimate.high:.1%}; {trigger.below:.1%} asked for, {estimate.validated:.1%} on the validation"
        " pictures)"
    )


def _drift_in_words(trigger: DriftTrigger, events: Sequence[DriftEvent], evidence: Evidence) -> str:
    devices = {event.device for event in events}
    signals = ", ".join(sorted({event.signal for event in events}))
    strongest = max(event.statistic for event in events)
    shares = ""
    if trigger.quorum_share is not None:
        counts = {
            kind: (len(devices.intersection(names)), len(names)) for kind, names in sorted(evidence.fleet.items())
        }
        shares = ", ".join(f"{some} of {all_} {kind}" for kind, (some, all_) in counts.items() if some)
        shares = f" ({shares})"
    return (
        f"drift in {signals} on {', '.join(sorted(devices))}{shares} (stability index up to {strongest:.2f},"
        f" {trigger.threshold:g} allowed); {evidence.unlearned_labels} new labelled pictures"
    )
