"""Serve one bundle without a hub, in this process: for containers and for trying a bundle."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path
from typing import Any

from milonga_agent.errors import InUse
from milonga_agent.serve import Server
from milonga_agent.served import Served
from milonga_agent.serving import listening_on

_DRAIN_SECONDS = 10.0


def serve(bundle: Path, host: str, port: int, threads: int) -> None:
    """Probe the bundle, then answer until SIGTERM or Ctrl-C, and finish what was accepted; ended before, it answers nothing.

    It listens only once it can answer, so that whoever connects finds it ready; port 0 takes a free one and tells it.
    Raises BadBundle or EngineMissing, and InUse where the address cannot be listened on.
    """
    ending, serving = threading.Event(), False

    def end(number: int, frame: Any) -> None:
        if not serving:
            raise SystemExit(0)
        ending.set()

    # From the beginning: what is process 1 of a container has no other end than by its own handlers.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    served = Served(bundle, threads)
    served.probe()
    server, serving = Server(_listen(host, port), served), True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address, bound = server.socket.getsockname()[:2]
    print(f"{served.project} answers at http://{address}:{bound}/v2/models/{served.project}", flush=True)
    ending.wait()
    server.drain(_DRAIN_SECONDS)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listening_on(host, port)
    except OSError as error:
        raise InUse(f"cannot listen on {host}:{port} ({error}); choose another with --host and --port") from error
