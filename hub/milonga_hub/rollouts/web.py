"""Rollouts over REST."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import APIRouter
from pydantic import BaseModel

from milonga_hub.callers import seen_projects
from milonga_hub.projects.models import Project, RolloutSpec
from milonga_hub.rollouts.models import RolloutView
from milonga_hub.rollouts.rules import selector_of
from milonga_hub.rollouts.rules_agents import AgentRolloutSpec
from milonga_hub.rollouts.rules_ending import seen
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.web.views import PageSize, PageToken


class RolloutPage(BaseModel):
    rollouts: list[RolloutView]
    next_page_token: str


class NewRollout(BaseModel):
    model_version: str
    # Empty takes the project's.
    selector: str = ""
    spec: RolloutSpec | None = None
    request_id: str = ""
    # Say what would happen, and do nothing.
    dry_run: bool = False


class AgentUpgradeOrder(BaseModel):
    # Empty takes all devices.
    selector: str = ""
    spec: AgentRolloutSpec | None = None
    request_id: str = ""
    # Say what would happen, and do nothing.
    dry_run: bool = False


def router(rollouts: RolloutService, project_of: Callable[[str], Project]) -> APIRouter:
    """`project_of(model_version)` returns the project whose run made it."""
    api = APIRouter(tags=["rollouts"])

    @api.get("/rollouts")
    async def list_rollouts(project: str = "", page_size: PageSize = 0, page_token: PageToken = "") -> RolloutPage:
        """List rollouts, the newest first."""
        found, token = rollouts.list(project, page_size, page_token, seen_projects())
        return RolloutPage(rollouts=[seen(each) for each in found], next_page_token=token)

    @api.post("/rollouts", status_code=201)
    async def create_rollout(body: NewRollout) -> RolloutView:
        """Send a model version to devices, wave by wave; with `dry_run` say what would happen, and do nothing."""
        project = project_of(body.model_version)
        spec = body.spec or project.spec.rollout
        selector = selector_of(body.selector, project.spec.selector, is_limited=seen_projects() is not None)
        if body.dry_run:
            return seen(rollouts.rehearse(body.model_version, project.name, selector, spec))
        made = rollouts.create(body.model_version, project.name, selector, spec, body.request_id)
        return seen(made)

    @api.post("/agent_upgrades", status_code=201)
    async def upgrade_agents(body: AgentUpgradeOrder) -> RolloutView:
        """Let devices take the hub's own agent, some at a time; with `dry_run` say what would happen, and do nothing."""
        made = await asyncio.to_thread(rollouts.upgrade_agents, body.selector, body.spec, body.request_id, body.dry_run)
        return seen(made)

    @api.get("/rollouts/{rollout}")
    async def get_rollout(rollout: str) -> RolloutView:
        return seen(rollouts.get(rollout))

    @api.post("/rollouts/{rollout}:pause")
    async def pause_rollout(rollout: str) -> RolloutView:
        """Begin no further wave."""
        return seen(rollouts.pause(rollout))

    @api.post("/rollouts/{rollout}:resume")
    async def resume_rollout(rollout: str) -> RolloutView:
        """Go on, and let devices that failed try again."""
        return seen(rollouts.resume(rollout))

    @api.post("/rollouts/{rollout}:approve")
    async def approve_rollout(rollout: str) -> RolloutView:
        """Let a rollout begin that waits for a person."""
        return seen(rollouts.approve(rollout))

    @api.post("/rollouts/{rollout}:retry")
    async def retry_rollout(rollout: str) -> RolloutView:
        """Let the devices that failed try again, and no others."""
        return seen(rollouts.retry(rollout))

    @api.post("/rollouts/{rollout}:abort")
    async def abort_rollout(rollout: str) -> RolloutView:
        """Stop for good; devices that have not begun keep what they have, those on their way finish."""
        return seen(rollouts.abort(rollout))

    @api.post("/rollouts/{rollout}:roll_back")
    async def roll_back_rollout(rollout: str) -> RolloutView:
        """End the newest rollout of a project, and give the devices that have its version the one before; return what does so."""
        return seen(await asyncio.to_thread(rollouts.roll_back, rollout))

    return api
