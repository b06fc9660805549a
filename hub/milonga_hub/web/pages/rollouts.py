"""Rollouts: waves over time, each device step by step, canary against control, and buttons to steer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup

from milonga_hub.db import utc_now
from milonga_hub.rollouts import rules_progress
from milonga_hub.rollouts.models import LEFT_OUT, RolloutDevice, RolloutDeviceState, RolloutView, Step
from milonga_hub.rollouts.rules_ending import seen
from milonga_hub.rollouts.rules_progress import StepState, step_states
from milonga_hub.rollouts.rules_shadows import Together, compared, together
from milonga_hub.web.charts.waves import waves
from milonga_hub.web.language import N_
from milonga_hub.web.pages.canary import sides
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices
from milonga_hub.web.words import mark, state

# Of each wave at first, as a terminal shows; then, of the one that is gone through, so many at a time as on the page of all devices.
_FIRST_DEVICES, _MORE_DEVICES = 20, 100
# What each step of a device does.
PURPOSES = {
    Step.DOWNLOAD: N_("fetches the files, or only what differs from those that it has"),
    Step.VERIFY: N_("checks signatures and that every byte has come"),
    Step.INSTALL: N_("puts the files in place, beside those of the version before"),
    Step.BUILD: N_("makes its engine's own file, where that is made on the device"),
    Step.PROBE: N_("answers a known picture as the hub expects"),
    Step.SHADOW: N_("answers beside the version before for a while, and is held against it"),
    Step.ACTIVATE: N_("lets programs on the device have the new version"),
    Step.COMMIT: N_("sees that it still answers, and keeps it"),
}
_URGENT = (
    RolloutDeviceState.FAILED,
    RolloutDeviceState.ASSIGNED,
    RolloutDeviceState.TOLD,
    RolloutDeviceState.WAITING,
    RolloutDeviceState.SKIPPED,
    RolloutDeviceState.SUCCEEDED,
)


@dataclass(frozen=True)
class Shown:
    """What a page has room for of a wave's devices, and where the others are."""

    devices: list[RolloutDevice]
    count: int
    # What their shadows came to, of all of them.
    shadows: Together | None
    # How many come before them.
    after: int = 0
    # Addresses, empty where there are none.
    first: str = ""
    following: str = ""


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/rollouts")
    def all_of_them(request: Request) -> HTMLResponse:
        rollouts = everything(lambda token: hub.rollouts.headlines(page_token=token), at_most=200)
        return render(request, "rollouts.html", live="rollouts/", rollouts=rollouts)

    @pages.get("/rollouts/{id}")
    def one(
        request: Request,
        id: str,
        wave: Annotated[int, Query(ge=0)] = 0,
        after: Annotated[int, Query(ge=0)] = 0,
    ) -> HTMLResponse:
        """Show it, in a thread of its own, as telemetry is added up for it.

        Of `wave`, as people count them (0: those that are left out), the devices that come `after` so many.
        """
        rollout = seen(hub.rollouts.get(id))
        shown = _shown(rollout, wave - 1, after)
        agents = bool(rollout.agent_version)
        # An agent tells no steps of its own upgrade.
        steps = () if agents else rules_progress.columns(rollout, rollout.devices)
        builds = [] if agents else hub.builds.chosen(rollout.model_version).values()
        return render(
            request,
            "rollout.html",
            live=f"rollouts/{rollout.id}" + ("" if agents else f",telemetry_totals/{rollout.project}"),
            rollout=rollout,
            shown=shown,
            simulated=hub.devices.simulated_names(),
            waves=waves(rules_progress.spans(rollout), utc_now()),
            steps=steps,
            step_states=step_states,
            pips=_pips(),
            purposes=PURPOSES,
            sides=None if agents else sides(hub, rollout),
            measure="" if agents else hub.models.get_version(rollout.model_version).task.measure,
            builds=sorted(builds, key=lambda each: each.device_type),
            newest=hub.rollouts.newest_id(rollout.project) == rollout.id,
            left_out=shown.get(LEFT_OUT),
        )

    @pages.post("/new/rollouts")
    async def create(
        model_version: Annotated[str, Form()], request_id: Annotated[str, Form()] = ""
    ) -> RedirectResponse:
        """Send a version to the devices of the project whose run made it."""
        project = hub.projects.get(hub.models.get_version(model_version).run.split("/")[1])
        made = hub.rollouts.create(model_version, project.name, project.spec.selector, project.spec.rollout, request_id)
        return RedirectResponse(f"/rollouts/{quote(made.id, safe='')}", status_code=303)

    @pages.post("/rollouts/{id}/{verb}")
    def change(id: str, verb: str) -> RedirectResponse:
        rollouts = hub.rollouts
        verbs = {
            "approve": rollouts.approve,
            "pause": rollouts.pause,
            "resume": rollouts.resume,
            "retry": rollouts.retry,
            "abort": rollouts.abort,
        }
        if verb in verbs:
            verbs[verb](id)
        elif verb == "roll_back":
            id = rollouts.roll_back(id).id
        return RedirectResponse(f"/rollouts/{quote(id, safe='')}", status_code=303)

    return pages


def _shown(rollout: RolloutView, gone_through: int, after: int) -> dict[int, Shown]:
    """Return by wave what the page shows of its devices."""
    waves: dict[int, list[RolloutDevice]] = {}
    for device in rollout.devices:
        waves.setdefault(device.wave, []).append(device)
    address = f"/rollouts/{quote(rollout.id, safe='')}"
    return {
        wave: _part(devices, wave, after if wave == gone_through else 0, address) for wave, devices in waves.items()
    }


def _part(devices: list[RolloutDevice], wave: int, after: int, address: str) -> Shown:
    """Return what there is room for: all where they are few, of many those that need somebody first."""
    count, shadows = len(devices), together(devices)
    if count <= _FIRST_DEVICES:
        return Shown(devices, count, shadows)
    after = after if after < count else 0
    some = sorted(devices, key=_urgency)[after : after + (_MORE_DEVICES if after else _FIRST_DEVICES)]
    until = after + len(some)
    anchor = f"#{'left-out' if wave == LEFT_OUT else f'wave-{wave}'}"
    return Shown(
        some,
        count,
        shadows,
        after,
        first=f"{address}{anchor}" if after else "",
        following=f"{address}?{urlencode({'wave': wave + 1, 'after': until})}{anchor}" if until < count else "",
    )


def _pips() -> dict[StepState, Markup]:
    """Return how each state is shown, made once: a large rollout's page has thousands of them."""
    shown = Markup('<i class="pip {0}" title="{1}"></i><span class="visually-hidden">{1}</span>')
    return {each: shown.format(mark(each), state(each)) for each in StepState}


def _urgency(device: RolloutDevice) -> tuple[bool, int, float]:
    seen = compared(device)
    return not device.late, _URGENT.index(device.state), -seen.differing if seen else 0.0
