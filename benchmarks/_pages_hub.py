"""A filled hub with as many devices as told, behind its real pages: python -m benchmarks._pages_hub COUNT

Says its address, and the cookie of somebody who is signed in, as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from milonga_hub.collecting import leave_what_stays
from milonga_hub.devices.models import Device, DeviceState
from milonga_hub.transports.http import create_app, serve

from tests.web.filled import PROJECT, Services, filled
from tests.web.people import cookie_of

_VERSION = f"models/{PROJECT}/versions/2"


def fill(hub: Services, count: int) -> None:
    """Let devices of the known types join, a tenth of them offline, and begin a rollout to all of them."""
    known = [device for device in hub.devices.list()[0] if device.device_type]
    types = sorted({device.device_type for device in known})
    rows = [
        Device(
            name=f"unit-{number:05}",
            device_type=types[number % len(types)],
            state=DeviceState.OFFLINE if number % 10 == 0 else DeviceState.ONLINE,
            labels={"site": f"site-{number % 40}"},
            inventory=known[0].inventory,
        )
        for number in range(count)
    ]
    with hub.database.session() as session:
        session.add_all(rows)
    hub.rollouts.create(_VERSION, PROJECT, "", hub.projects.get(PROJECT).spec.rollout)
    hub.rollouts.advance()


async def _serve(hub: Services) -> None:
    _, port = await serve(create_app(hub), "127.0.0.1", 0)
    print(json.dumps({"address": f"http://127.0.0.1:{port}", "cookies": cookie_of(hub)}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = filled(Path(folder))
        fill(made, int(sys.argv[1]))
        leave_what_stays()
        asyncio.run(_serve(made))
