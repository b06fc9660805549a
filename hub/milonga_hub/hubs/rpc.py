"""HubService over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

from milonga.v1 import hubs_pb2 as pb
from milonga.v1 import hubs_pb2_grpc

from milonga_hub.bridge import to_proto
from milonga_hub.hubs.service import Hubs


class HubRpc(hubs_pb2_grpc.HubServiceServicer):
    def __init__(self, hubs: Hubs, scheme: str) -> None:
        """`scheme` is what addresses of this hub's pages begin with."""
        self._hubs = hubs
        self._scheme = scheme

    async def ListHubs(self, request: pb.ListHubsRequest, context: Any) -> pb.ListHubsResponse:
        response = pb.ListHubsResponse(notice=self._hubs.notice, scheme=self._scheme)
        for each in await asyncio.to_thread(self._hubs.standings):
            told = to_proto(each.hub, pb.Hub)
            told.state, told.is_this = pb.HubState.Value(f"HUB_STATE_{each.state}"), each.is_this
            if each.leads_since is not None:
                told.leads_since.FromDatetime(each.leads_since)
            response.hubs.append(told)
        return response
