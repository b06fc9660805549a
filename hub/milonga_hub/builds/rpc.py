"""Builds over gRPC."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from milonga.v1 import models_pb2 as pb
from milonga.v1 import models_pb2_grpc

from milonga_hub.bridge import to_proto
from milonga_hub.builds import rules
from milonga_hub.builds.models import Build
from milonga_hub.builds.packing import pack
from milonga_hub.builds.service import BuildService
from milonga_hub.builds.values import BuildTuning, TuningSite
from milonga_hub.callers import seen_projects, signature
from milonga_hub.events import EventBus

_CHUNK_BYTES = 1 << 20


def _message(build: Build) -> pb.Build:
    return to_proto(build, pb.Build)


def _asked_tuning(request: pb.StartBuildRequest) -> BuildTuning | None:
    unset = request.tuning_site == pb.TUNING_SITE_UNSPECIFIED
    site = None if unset else TuningSite(pb.TuningSite.Name(request.tuning_site).removeprefix("TUNING_SITE_"))
    return rules.asked_tuning(request.tuning_minutes, site, request.tuning_device)


class BuildRpc(models_pb2_grpc.BuildServiceServicer):
    def __init__(self, builds: BuildService, events: EventBus) -> None:
        self._builds = builds
        self._events = events

    async def GetBuild(self, request: pb.GetBuildRequest, context: Any) -> pb.GetBuildResponse:
        return pb.GetBuildResponse(build=_message(self._builds.get(request.name)))

    async def ListBuilds(self, request: pb.ListBuildsRequest, context: Any) -> pb.ListBuildsResponse:
        builds, token = self._builds.list(request.model_version, request.page_size, request.page_token, seen_projects())
        return pb.ListBuildsResponse(builds=[_message(one) for one in builds], next_page_token=token)

    async def StartBuild(self, request: pb.StartBuildRequest, context: Any) -> pb.StartBuildResponse:
        build = self._builds.start(request.model_version, request.device_type, request.target, _asked_tuning(request))
        return pb.StartBuildResponse(build=_message(build))

    async def WatchBuild(self, request: pb.WatchBuildRequest, context: Any) -> AsyncIterator[pb.WatchBuildResponse]:
        """Send the build now and after every change, until it is not in progress."""
        topic = f"builds/{request.name}"
        with self._events.listen(topic) as news:
            build = self._builds.get(request.name)
            yield pb.WatchBuildResponse(build=_message(build))
            while build.in_progress:
                if (await news.next()).topic == topic:
                    build = self._builds.get(request.name)
                    yield pb.WatchBuildResponse(build=_message(build))

    async def CancelBuild(self, request: pb.CancelBuildRequest, context: Any) -> pb.CancelBuildResponse:
        return pb.CancelBuildResponse(build=_message(self._builds.cancel(request.name)))

    async def OverrideBuild(self, request: pb.OverrideBuildRequest, context: Any) -> pb.OverrideBuildResponse:
        build = self._builds.override(request.name, signature(request.by), request.reason)
        return pb.OverrideBuildResponse(build=_message(build))

    async def ChooseBuild(self, request: pb.ChooseBuildRequest, context: Any) -> pb.ChooseBuildResponse:
        return pb.ChooseBuildResponse(build=_message(self._builds.choose(request.name)))

    async def GetBuildLog(self, request: pb.GetBuildLogRequest, context: Any) -> pb.GetBuildLogResponse:
        return pb.GetBuildLogResponse(text=await asyncio.to_thread(self._builds.log, request.name))

    async def GetBuildManifest(self, request: pb.GetBuildManifestRequest, context: Any) -> pb.GetBuildManifestResponse:
        return pb.GetBuildManifestResponse(json=await asyncio.to_thread(self._builds.manifest_text, request.name))

    async def DownloadBuild(  # type: ignore[override]
        self, request: pb.DownloadBuildRequest, context: Any
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
            packed = Path(scratch) / "bundle.zip"
            await asyncio.to_thread(pack, self._builds, request.name, packed)
            with packed.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                    await context.write(pb.DownloadBuildResponse(chunk=chunk))
