"""Serve a filled hub to look at, or an empty one, or one that finds objects: python -m tests.web.look PORT [empty | scenes].

Sign in as ana, who is an admin, or ben, who may only look; PASSWORD is in people.py.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from milonga_hub.callers import Role
from milonga_hub.transports.http import create_app, serve

from tests.web.filled import Services, filled
from tests.web.people import PASSWORD
from tests.web.scenes import scenes


async def _serve(hub: Services, port: int) -> None:
    _, bound_port = await serve(create_app(hub), "127.0.0.1", port)
    print(f"http://127.0.0.1:{bound_port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="milonga-pages-"))
    makers = {"empty": Services, "scenes": scenes}
    hub = next((make for word, make in makers.items() if word in sys.argv), filled)(folder)
    for name, role in (("ana", Role.ADMIN), ("ben", Role.VIEWER)):
        hub.accounts.create(name, role, PASSWORD)
    asyncio.run(_serve(hub, int(sys.argv[1])))
