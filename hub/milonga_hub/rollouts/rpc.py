"""RolloutService over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from milonga.v1 import rollouts_pb2, rollouts_pb2_grpc

from milonga_hub.bridge import from_field, to_proto
from milonga_hub.callers import seen_projects
from milonga_hub.events import EventBus
from milonga_hub.projects.models import Project, RolloutSpec
from milonga_hub.rollouts.models import OPEN, Rollout
from milonga_hub.rollouts.rules import selector_of
from milonga_hub.rollouts.rules_agents import AgentRolloutSpec
from milonga_hub.rollouts.rules_ending import seen
from milonga_hub.rollouts.service import RolloutService


class RolloutRpc(rollouts_pb2_grpc.RolloutServiceServicer):
    def __init__(self, service: RolloutService, events: EventBus, project_of: Callable[[str], Project]) -> None:
        """`project_of(model_version)` returns the project whose run made it."""
        self._service = service
        self._events = events
        self._project_of = project_of

    async def CreateRollout(
        self, request: rollouts_pb2.CreateRolloutRequest, context: Any
    ) -> rollouts_pb2.CreateRolloutResponse:
        project = self._project_of(request.model_version)
        spec = from_field(request, "spec", RolloutSpec) if request.HasField("spec") else project.spec.rollout
        selector = selector_of(request.selector, project.spec.selector, is_limited=seen_projects() is not None)
        if request.dry_run:
            planned = self._service.rehearse(request.model_version, project.name, selector, spec)
            return rollouts_pb2.CreateRolloutResponse(rollout=_message(planned))
        rollout = self._service.create(request.model_version, project.name, selector, spec, request.request_id)
        return rollouts_pb2.CreateRolloutResponse(rollout=_message(rollout))

    async def UpgradeAgents(
        self, request: rollouts_pb2.UpgradeAgentsRequest, context: Any
    ) -> rollouts_pb2.UpgradeAgentsResponse:
        spec = from_field(request, "spec", AgentRolloutSpec)
        rollout = await asyncio.to_thread(
            self._service.upgrade_agents, request.selector, spec, request.request_id, request.dry_run
        )
        return rollouts_pb2.UpgradeAgentsResponse(rollout=_message(rollout))

    async def GetRollout(
        self, request: rollouts_pb2.GetRolloutRequest, context: Any
    ) -> rollouts_pb2.GetRolloutResponse:
        return rollouts_pb2.GetRolloutResponse(rollout=_message(self._service.get(request.id)))

    async def ListRollouts(
        self, request: rollouts_pb2.ListRolloutsRequest, context: Any
    ) -> rollouts_pb2.ListRolloutsResponse:
        rollouts, token = self._service.list(request.project, request.page_size, request.page_token, seen_projects())
        return rollouts_pb2.ListRolloutsResponse(
            rollouts=[_message(rollout) for rollout in rollouts], next_page_token=token
        )

    async def PauseRollout(
        self, request: rollouts_pb2.PauseRolloutRequest, context: Any
    ) -> rollouts_pb2.PauseRolloutResponse:
        return rollouts_pb2.PauseRolloutResponse(rollout=_message(self._service.pause(request.id)))

    async def ResumeRollout(
        self, request: rollouts_pb2.ResumeRolloutRequest, context: Any
    ) -> rollouts_pb2.ResumeRolloutResponse:
        return rollouts_pb2.ResumeRolloutResponse(rollout=_message(self._service.resume(request.id)))

    async def ApproveRollout(
        self, request: rollouts_pb2.ApproveRolloutRequest, context: Any
    ) -> rollouts_pb2.ApproveRolloutResponse:
        return rollouts_pb2.ApproveRolloutResponse(rollout=_message(self._service.approve(request.id)))

    async def RetryRollout(
        self, request: rollouts_pb2.RetryRolloutRequest, context: Any
    ) -> rollouts_pb2.RetryRolloutResponse:
        return rollouts_pb2.RetryRolloutResponse(rollout=_message(self._service.retry(request.id)))

    async def AbortRollout(
        self, request: rollouts_pb2.AbortRolloutRequest, context: Any
    ) -> rollouts_pb2.AbortRolloutResponse:
        return rollouts_pb2.AbortRolloutResponse(rollout=_message(self._service.abort(request.id)))

    async def RollBackRollout(
        self, request: rollouts_pb2.RollBackRolloutRequest, context: Any
    ) -> rollouts_pb2.RollBackRolloutResponse:
        back = await asyncio.to_thread(self._service.roll_back, request.id)
        return rollouts_pb2.RollBackRolloutResponse(rollout=_message(back))

    async def WatchRollout(
        self, request: rollouts_pb2.WatchRolloutRequest, context: Any
    ) -> AsyncIterator[rollouts_pb2.WatchRolloutResponse]:
        """Send the rollout as it is and after each change, until it has ended."""
        topic = f"rollouts/{self._service.get(request.id).id}"
        with self._events.listen(topic) as events:
            while True:
                rollout = self._service.get(request.id)
                yield rollouts_pb2.WatchRolloutResponse(rollout=_message(rollout))
                if rollout.state not in OPEN:
                    return
                while (await events.next()).topic != topic:
                    pass


def _message(rollout: Rollout) -> rollouts_pb2.Rollout:
    return to_proto(seen(rollout), rollouts_pb2.Rollout)
