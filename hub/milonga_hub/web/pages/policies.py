"""Policies: when each project retrains by itself, what waits for a person, and how careful its rollouts are."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from milonga_hub.callers import caller, seen_projects, tell_problem
from milonga_hub.errors import MilongaError
from milonga_hub.projects.models import ProjectSpec
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices

_HOUR_SECONDS = 3600.0


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    def shown(request: Request, wrong: str = "", of: str = "", status: int = 200) -> HTMLResponse:
        seen = seen_projects()
        projects = everything(lambda token: hub.projects.list(page_token=token))
        shown = [each for each in projects if seen is None or each.name in seen]
        return render(
            request,
            "policies.html",
            status=status,
            me=caller(),
            projects=shown,
            last={each.name: hub.runs.latest(each.name) for each in shown},
            wrong=wrong,
            of=of,
        )

    @pages.get("/settings/policies")
    def policies(request: Request) -> HTMLResponse:
        return shown(request)

    @pages.post("/settings/policies/{project}")
    def change(
        request: Request,
        project: str,
        new_labels: Annotated[int, Form()] = 0,
        cool_down_hours: Annotated[float, Form()] = 1.0,
        soak_seconds: Annotated[float, Form()] = 60.0,
        on_drift: Annotated[bool, Form()] = False,
        approve_runs: Annotated[bool, Form()] = False,
        approve_rollouts: Annotated[bool, Form()] = False,
    ) -> Response:
        """Apply the project again with what the form says; all else of it stays."""
        spec = hub.projects.get(project).spec.model_dump()
        spec["retraining"]["drift"]["enabled"] = on_drift
        if spec["dataset"]:
            # Without one no run starts, and the form has none of these.
            spec["retraining"] |= {
                "new_labels": new_labels,
                "cool_down_seconds": cool_down_hours * _HOUR_SECONDS,
                "approval": approve_runs,
            }
        spec["rollout"] |= {"soak_seconds": soak_seconds, "approval": approve_rollouts}
        try:
            hub.projects.apply(project, ProjectSpec.model_validate(spec))
        except (MilongaError, ValueError) as error:
            tell_problem(f"{type(error).__name__}: {error}")
            return shown(request, str(error), project, 400)
        return RedirectResponse("/settings/policies", 303)

    return pages
