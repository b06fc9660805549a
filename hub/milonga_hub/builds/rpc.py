"""Builds over gRPC."""

from __future__ import annotations

from typing import Any

from milonga.v1 import models_pb2 as pb
from milonga.v1 import models_pb2_grpc

from milonga_hub.bridge import to_proto
from milonga_hub.builds.service import BuildService


class BuildRpc(models_pb2_grpc.BuildServiceServicer):
    def __init__(self, builds: BuildService) -> None:
        self._builds = builds

    async def GetBuild(self, request: pb.GetBuildRequest, context: Any) -> pb.GetBuildResponse:
        return pb.GetBuildResponse(build=to_proto(self._builds.get(request.name), pb.Build))

    async def ListBuilds(self, request: pb.ListBuildsRequest, context: Any) -> pb.ListBuildsResponse:
        builds, token = self._builds.list(request.model_version, request.page_size, request.page_token)
        return pb.ListBuildsResponse(builds=[to_proto(one, pb.Build) for one in builds], next_page_token=token)
