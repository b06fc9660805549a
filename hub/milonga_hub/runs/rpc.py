"""Runs over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from milonga.v1 import projects_pb2 as pb
from milonga.v1 import projects_pb2_grpc

from milonga_hub.bridge import to_proto
from milonga_hub.callers import seen_projects
from milonga_hub.events import EventBus
from milonga_hub.runs.exports import RunExports
from milonga_hub.runs.models import Run, Trigger
from milonga_hub.runs.rules import ENDED
from milonga_hub.runs.service import RunService

_CHUNK_BYTES = 1 << 20


def _message(run: Run) -> pb.Run:
    return to_proto(run, pb.Run)


class RunRpc(projects_pb2_grpc.RunServiceServicer):
    def __init__(self, runs: RunService, events: EventBus, exports: RunExports) -> None:
        self._runs = runs
        self._events = events
        self._exports = exports

    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> pb.StartRunResponse:
        run = self._runs.start(request.project, Trigger.MANUAL, request.reason, request_id=request.request_id)
        return pb.StartRunResponse(run=_message(run))

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=_message(self._runs.get(request.name)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        runs, token = self._runs.list(request.project, request.page_size, request.page_token, seen_projects())
        return pb.ListRunsResponse(runs=[_message(run) for run in runs], next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:
        return pb.CancelRunResponse(run=_message(self._runs.cancel(request.name)))

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Any) -> pb.ResumeRunResponse:
        return pb.ResumeRunResponse(run=_message(self._runs.resume(request.name)))

    async def ApproveRun(self, request: pb.ApproveRunRequest, context: Any) -> pb.ApproveRunResponse:
        return pb.ApproveRunResponse(run=_message(self._runs.approve(request.name)))

    async def RefuseRun(self, request: pb.RefuseRunRequest, context: Any) -> pb.RefuseRunResponse:
        return pb.RefuseRunResponse(run=_message(self._runs.refuse(request.name)))

    async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> AsyncIterator[pb.WatchRunResponse]:
        """Send the run now and after every change, until it ends."""
        with self._events.listen(request.name) as news:
            run = self._runs.get(request.name)
            yield pb.WatchRunResponse(run=_message(run))
            while run.state not in ENDED:
                event = await news.next()
                if event.topic == request.name:
                    run = self._runs.get(request.name)
                    yield pb.WatchRunResponse(run=_message(run))

    async def ListCandidates(self, request: pb.ListCandidatesRequest, context: Any) -> pb.ListCandidatesResponse:
        self._runs.get(request.run)
        candidates, token = self._runs.candidates(
            request.run, request.device_type, request.page_size, request.page_token
        )
        messages = [to_proto(candidate, pb.Candidate) for candidate in candidates]
        return pb.ListCandidatesResponse(candidates=messages, next_page_token=token)

    async def DownloadRun(self, request: pb.DownloadRunRequest, context: Any) -> AsyncIterator[pb.DownloadRunResponse]:
        pieces = await asyncio.to_thread(self._exports.export, request.name)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            for start in range(0, len(piece), _CHUNK_BYTES):
                yield pb.DownloadRunResponse(chunk=piece[start : start + _CHUNK_BYTES])
