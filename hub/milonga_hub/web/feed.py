"""What happened lately, from what the services keep of it: runs, rollouts, drift, data sets and devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest
from urllib.parse import quote

from milonga_hub.devices.values import Outline
from milonga_hub.rollouts.models import Rollout, RolloutState
from milonga_hub.runs.models import RunState
from milonga_hub.web.language import N_, ngettext
from milonga_hub.web.language import gettext as _
from milonga_hub.web.said import said
from milonga_hub.web.services import HubServices
from milonga_hub.web.words import cause, term, version

# So many of each kind are asked for; older ones stand on pages of their own.
_OF_EACH = 10
_ENDED = {
    RunState.SUCCEEDED: N_("run succeeded"),
    RunState.FAILED: N_("run failed"),
    RunState.CANCELLED: N_("run cancelled"),
}
_ROLLOUT_ENDED = {
    RolloutState.SUCCEEDED: N_("rollout succeeded"),
    RolloutState.ABORTED: N_("rollout aborted"),
}


@dataclass(frozen=True)
class Happening:
    """`mark` is a badge of style.css; the address leads to what it happened to."""

    at: datetime
    mark: str
    words: str
    address: str


def feed(hub: HubServices, devices: Sequence[Outline], rollouts: Sequence[Rollout], at_most: int) -> list[Happening]:
    """Return what happened, the newest first, to these devices and in these rollouts, which are large where fleets are."""
    found = [*_runs(hub), *_rollouts(rollouts), *_drift(hub), *_datasets(hub), *_joined(devices)]
    return sorted(found, key=lambda each: each.at, reverse=True)[:at_most]


def _runs(hub: HubServices) -> Iterator[Happening]:
    for run in hub.runs.list(page_size=_OF_EACH)[0]:
        address = f"/runs/{quote(run.project, safe='')}/{run.number}"
        yield Happening(
            run.created_at,
            _beginning(run.state),
            f"{version(run.name)}: {said(run.reason) or cause(run.trigger)}",
            address,
        )
        if run.ended_at is not None:
            why = said(run.outcome or run.error)
            yield Happening(run.ended_at, _ENDED[run.state], f"{version(run.name)}: {why}", address)


def _beginning(run_state: RunState) -> str:
    return N_("run awaits approval") if run_state is RunState.AWAITING_APPROVAL else N_("run began")


def _rollouts(rollouts: Sequence[Rollout]) -> Iterator[Happening]:
    for rollout in rollouts[:_OF_EACH]:
        address = f"/rollouts/{quote(rollout.id, safe='')}"
        count = sum(wave.device_count for wave in rollout.waves)
        words = ngettext(
            "%(version)s to %(num)s device",
            "%(version)s to %(num)s devices",
            count,
            version=version(rollout.brings),
        )
        yield Happening(rollout.created_at, N_("rollout began"), words, address)
        if rollout.ended_at is not None:
            mark = _ROLLOUT_ENDED[rollout.state]
            yield Happening(rollout.ended_at, mark, f"{words} {said(rollout.reason)}", address)


def _drift(hub: HubServices) -> Iterator[Happening]:
    for event in hub.telemetry.drift_events(page_size=_OF_EACH)[0]:
        words = _(
            "%(signal)s on %(device)s: %(found)s, above %(allowed)s",
            signal=term(event.signal),
            device=event.device,
            found=f"{event.statistic:.2f}",
            allowed=f"{event.threshold:g}",
        )
        yield Happening(event.detected_at, N_("drift"), words, "/monitoring")


def _datasets(hub: HubServices) -> Iterator[Happening]:
    for dataset in hub.datasets.list(page_size=_OF_EACH)[0]:
        newest = hub.datasets.latest(dataset.name)
        count = newest.train_count + newest.validation_count
        words = ngettext(
            "%(version)s with %(num)s picture", "%(version)s with %(num)s pictures", count, version=version(newest.name)
        )
        yield Happening(newest.created_at, N_("data set"), words, f"/datasets/{quote(dataset.name, safe='')}")


def _joined(devices: Sequence[Outline]) -> Iterator[Happening]:
    for device in nlargest(_OF_EACH, devices, key=lambda each: each.enrolled_at):
        words = f"{device.name}, {device.device_type}"
        yield Happening(device.enrolled_at, N_("device joined"), words, f"/devices/{quote(device.name, safe='')}")
