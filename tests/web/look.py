"""Serve a filled (or, with "empty", an empty) hub to look at: python -m tests.web.look PORT [empty]."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from milonga_hub.transports.http import create_app, serve

from tests.web.filled import Services, filled


async def _serve(hub: Services, port: int) -> None:
    _, bound_port = await serve(create_app(hub), "127.0.0.1", port)
    print(f"http://127.0.0.1:{bound_port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="milonga-pages-"))
    hub = Services(folder) if "empty" in sys.argv else filled(folder)
    asyncio.run(_serve(hub, int(sys.argv[1])))
