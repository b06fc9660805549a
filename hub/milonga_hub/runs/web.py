"""Runs over REST."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from milonga_hub.callers import seen_projects
from milonga_hub.runs.models import Candidate, RunView, Trigger
from milonga_hub.runs.service import RunService
from milonga_hub.web.views import PageSize, PageToken, view, views


class RunPage(BaseModel):
    runs: list[RunView]
    next_page_token: str


class CandidatePage(BaseModel):
    candidates: list[Candidate]
    next_page_token: str


class NewRun(BaseModel):
    reason: str = ""
    request_id: str = ""


def router(runs: RunService) -> APIRouter:
    api = APIRouter(tags=["runs"])
    _add_reading(api, runs)
    _add_verbs(api, runs)
    return api


def _name(project: str, number: int) -> str:
    return f"projects/{project}/runs/{number}"


def _add_reading(api: APIRouter, runs: RunService) -> None:
    @api.get("/runs")
    async def list_runs(project: str = "", page_size: PageSize = 0, page_token: PageToken = "") -> RunPage:
        """List runs of one project or of all, the newest first."""
        found, token = runs.list(project, page_size, page_token, seen_projects())
        return RunPage(runs=views(RunView, found), next_page_token=token)

    @api.get("/projects/{project}/runs/{number}")
    async def get_run(project: str, number: int) -> RunView:
        return view(RunView, runs.get(_name(project, number)))

    @api.get("/projects/{project}/runs/{number}/candidates")
    async def list_candidates(
        project: str, number: int, device_type: str = "", page_size: PageSize = 0, page_token: PageToken = ""
    ) -> CandidatePage:
        """List the subnets that the search looked at closely."""
        runs.get(_name(project, number))
        found, token = runs.candidates(_name(project, number), device_type, page_size, page_token)
        return CandidatePage(candidates=found, next_page_token=token)

    @api.get("/projects/{project}/runs/{number}/history")
    async def list_history(project: str, number: int) -> list[dict[str, float]]:
        """List the points of the training curve."""
        return runs.history(_name(project, number))


def _add_verbs(api: APIRouter, runs: RunService) -> None:
    @api.post("/projects/{project}/runs", status_code=201)
    async def start_run(project: str, body: NewRun) -> RunView:
        return view(RunView, runs.start(project, Trigger.MANUAL, body.reason, body.request_id))

    @api.post("/projects/{project}/runs/{number}:cancel")
    async def cancel_run(project: str, number: int) -> RunView:
        """End the run where it is; :resume goes on from there."""
        return view(RunView, runs.cancel(_name(project, number)))

    @api.post("/projects/{project}/runs/{number}:resume")
    async def resume_run(project: str, number: int) -> RunView:
        """Go on with a failed or cancelled run from the stage where it ended."""
        return view(RunView, runs.resume(_name(project, number)))

    @api.post("/projects/{project}/runs/{number}:approve")
    async def approve_run(project: str, number: int) -> RunView:
        """Let a run begin that a policy started and that waits for a person."""
        return view(RunView, runs.approve(_name(project, number)))

    @api.post("/projects/{project}/runs/{number}:refuse")
    async def refuse_run(project: str, number: int) -> RunView:
        """End a run that waits for a person."""
        return view(RunView, runs.refuse(_name(project, number)))
