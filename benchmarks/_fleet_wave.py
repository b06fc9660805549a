"""A whole hub that sends a new version to its fleet each time it is told to.

python -m benchmarks._fleet_wave FOLDER    prints its address and a join token; on each line from stdin it makes a version, then
prints the time at which its rollout, of one wave, was asked for
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from milonga_hub.projects.models import RolloutSpec

from tests.simulation.hubs import PROJECT, give_project, release, running

_TOKEN_USES = 20_000


async def _serve(folder: Path) -> None:
    async with running(folder, heartbeat_seconds=60.0) as hub:
        give_project(hub, folder / "project")
        print(hub.addresses.grpc, hub.devices.create_join_token({}, uses=_TOKEN_USES)[1], flush=True)
        number = 0
        while await asyncio.to_thread(sys.stdin.readline):
            number += 1
            types = sorted({device.device_type for device in hub.devices.outlines()})
            version = release(hub.models, hub.builds, folder / "made", number, types)
            asked_at = time.time()
            hub.rollouts.create(version, PROJECT, "", RolloutSpec(waves=[1.0], soak_seconds=0.0))
            print(asked_at, flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
