"""Projects over REST."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from pydantic import BaseModel

from milonga_hub.callers import leave_unrecorded, need_scope, seen_projects
from milonga_hub.projects.models import Project, ProjectSpec
from milonga_hub.projects.rules import worth_a_run
from milonga_hub.projects.service import ProjectService
from milonga_hub.quotas.models import ProjectUsage
from milonga_hub.runs.models import DueRun, Run, RunView
from milonga_hub.web.views import PageSize, PageToken, view


class ProjectPage(BaseModel):
    projects: list[Project]
    next_page_token: str


class Application(BaseModel):
    spec: ProjectSpec
    # Start a run if the project is new or its spec changed.
    start_run: bool = False
    # Say what would change, and change nothing.
    dry_run: bool = False
    request_id: str = ""


class Applied(BaseModel):
    project: Project
    changes: list[str]
    run: RunView | None = None


def router(
    projects: ProjectService,
    start: Callable[[str, str, str], Run],
    usage: Callable[[str], ProjectUsage],
    due_run: Callable[[str], DueRun | None],
) -> APIRouter:
    """`start(project, reason, request_id)` starts a run and returns it; `usage` returns what a project takes and may take.

    `due_run` returns the run that a project's policy calls for.
    """
    api = APIRouter(tags=["projects"])

    @api.get("/projects")
    async def list_projects(page_size: PageSize = 0, page_token: PageToken = "") -> ProjectPage:
        found, token = projects.list(page_size, page_token, seen_projects())
        return ProjectPage(projects=found, next_page_token=token)

    @api.get("/projects/{project}")
    async def get_project(project: str) -> Project:
        return projects.get(project)

    @api.get("/projects/{project}/usage")
    def get_project_usage(project: str) -> ProjectUsage:
        """Return what a project takes of the hub now, and what it may."""
        return usage(project)

    @api.get("/projects/{project}/due_run")
    async def get_due_run(project: str) -> DueRun | None:
        """Return the run that the project's policy calls for and that has not begun, with what holds it back; null for none."""
        return due_run(project)

    @api.post("/projects/{project}:apply")
    async def apply_project(project: str, body: Application) -> Applied:
        """Create the project or change its spec; equal specs change nothing."""
        leave_unrecorded(body.dry_run)
        if body.start_run:
            need_scope("runs:write")
        applied, changes = projects.apply(
            project, body.spec, body.dry_run, body.request_id, is_limited=seen_projects() is not None
        )
        run = None
        if body.start_run and worth_a_run(changes, body.spec) and not body.dry_run:
            key = body.request_id or f"apply:{applied.name}:{applied.spec_generation}"
            run = view(RunView, start(project, "; ".join(changes), key))
        return Applied(project=applied, changes=changes, run=run)

    return api
