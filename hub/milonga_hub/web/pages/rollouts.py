"""Rollouts: waves over time, each device step by step, canary against control, and buttons to steer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup

from milonga_hub.db import utc_now
from milonga_hub.rollouts import rules_progress
from milonga_hub.rollouts.models import LEFT_OUT, RolloutDevice, RolloutDeviceState, Step
from milonga_hub.rollouts.rules_ending import seen
from milonga_hub.rollouts.rules_progress import StepState, step_states
from milonga_hub.web.charts.waves import waves
from milonga_hub.web.language import N_
from milonga_hub.web.pages.canary import sides
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices
from milonga_hub.web.words import mark, state

# Of a wave; `milonga rollouts show` lists all.
_MOST_DEVICES = 200
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


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/rollouts")
    def all_of_them(request: Request) -> HTMLResponse:
        rollouts = everything(lambda token: hub.rollouts.headlines(page_token=token), at_most=200)
        return render(request, "rollouts.html", live="rollouts/", rollouts=rollouts)

    @pages.get("/rollouts/{id}")
    def one(request: Request, id: str) -> HTMLResponse:
        """Show it, in a thread of its own, as telemetry is added up for it."""
        rollout = seen(hub.rollouts.get(id))
        shown = _shown(rollout.devices)
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
            left_out=shown.get(LEFT_OUT, []),
            left_out_count=sum(device.wave == LEFT_OUT for device in rollout.devices),
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


def _shown(devices: Sequence[RolloutDevice]) -> dict[int, list[RolloutDevice]]:
    """Return the devices by wave, as many of each as a page has room for: of a large wave those that need somebody first."""
    waves: dict[int, list[RolloutDevice]] = {}
    for device in devices:
        waves.setdefault(device.wave, []).append(device)
    return {
        wave: some if len(some) <= _MOST_DEVICES else sorted(some, key=_urgency)[:_MOST_DEVICES]
        for wave, some in waves.items()
    }


def _pips() -> dict[StepState, Markup]:
    """Return how each state is shown, made once: a large rollout's page has thousands of them."""
    shown = Markup('<i class="pip {0}" title="{1}"></i><span class="visually-hidden">{1}</span>')
    return {each: shown.format(mark(each), state(each)) for each in StepState}


def _urgency(device: RolloutDevice) -> tuple[bool, int]:
    return not device.late, _URGENT.index(device.state)
