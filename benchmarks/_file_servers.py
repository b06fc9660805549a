"""A server that sends one file, to have its processor time measured: python -m benchmarks._file_servers grpc|http FOLDER."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.transfers.lines import line


async def _grpc(folder: Path) -> None:
    """Serve FOLDER/build as the hub does to devices."""
    async with line(folder / "hub") as here:
        wish = here.assign({"model.onnx": (folder / "build").read_bytes()})
        about = {
            "address": f"127.0.0.1:{here.world.device_port}",
            "digest": wish.files[0].digest,
            "authority": here.world.tls.authority.certificate.decode(),
            "key": here.device.key.pem.decode(),
            "certificate": here.device.certificate,
        }
        print(json.dumps(about), flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def _http(folder: Path) -> None:
    """Serve FOLDER/build as starlette's file response on uvicorn does."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse
    from starlette.routing import Route

    async def build(request: Request) -> FileResponse:
        return FileResponse(folder / "build")

    config = uvicorn.Config(Starlette(routes=[Route("/", build)]), port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps({"url": f"http://127.0.0.1:{port}/"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run({"grpc": _grpc, "http": _http}[sys.argv[1]](Path(sys.argv[2])))
