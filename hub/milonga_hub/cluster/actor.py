"""The station as an actor of Ray."""

from __future__ import annotations

from typing import Any

import ray

from milonga_hub.cluster.station import Station


class StationActor(Station):
    def about(self) -> dict[str, Any]:
        return {**super().about(), "node": ray.get_runtime_context().get_node_id()}
