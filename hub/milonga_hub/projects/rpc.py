"""Projects over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from milonga.v1 import projects_pb2 as pb
from milonga.v1 import projects_pb2_grpc
from pydantic import BaseModel

from milonga_hub.bridge import from_field, to_proto
from milonga_hub.callers import leave_unrecorded, need_scope, seen_projects
from milonga_hub.projects.models import ProjectSpec
from milonga_hub.projects.rules import worth_a_run
from milonga_hub.projects.service import ProjectService


class ProjectRpc(projects_pb2_grpc.ProjectServiceServicer):
    def __init__(
        self,
        projects: ProjectService,
        start: Callable[[str, str, str], BaseModel],
        usage: Callable[[str], BaseModel],
        due_run: Callable[[str], BaseModel | None],
    ) -> None:
        """`start(project, reason, request_id)` starts a run and returns it; `usage` returns what a project takes and may take.

        `due_run` returns the run that a project's policy calls for.
        """
        self._usage = usage
        self._due_run = due_run
        self._projects = projects
        self._start = start

    async def ApplyProject(self, request: pb.ApplyProjectRequest, context: Any) -> pb.ApplyProjectResponse:
        spec = from_field(request, "spec", ProjectSpec)
        leave_unrecorded(request.dry_run)
        if request.start_run:
            need_scope("runs:write")
        project, changes = self._projects.apply(
            request.name, spec, request.dry_run, request.request_id, is_limited=seen_projects() is not None
        )
        run = None
        if request.start_run and worth_a_run(changes, spec) and not request.dry_run:
            # Repeated after a lost answer, or a crash between these lines, the same request finds the same changes and
            # the same run. Without an id it finds no change; then the generation names the run.
            key = request.request_id or f"apply:{project.name}:{project.spec_generation}"
            run = to_proto(self._start(request.name, "; ".join(changes), key), pb.Run)
        return pb.ApplyProjectResponse(project=to_proto(project, pb.Project), changes=changes, run=run)

    async def GetProject(self, request: pb.GetProjectRequest, context: Any) -> pb.GetProjectResponse:
        return pb.GetProjectResponse(project=to_proto(self._projects.get(request.name), pb.Project))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: Any) -> pb.ListProjectsResponse:
        projects, token = self._projects.list(request.page_size, request.page_token, seen_projects())
        return pb.ListProjectsResponse(projects=[to_proto(one, pb.Project) for one in projects], next_page_token=token)

    async def GetProjectUsage(self, request: pb.GetProjectUsageRequest, context: Any) -> pb.GetProjectUsageResponse:
        usage = await asyncio.to_thread(self._usage, request.name)
        return pb.GetProjectUsageResponse(project_usage=to_proto(usage, pb.ProjectUsage))

    async def GetDueRun(self, request: pb.GetDueRunRequest, context: Any) -> pb.GetDueRunResponse:
        due = self._due_run(request.name)
        return pb.GetDueRunResponse(due_run=None if due is None else to_proto(due, pb.DueRun))
