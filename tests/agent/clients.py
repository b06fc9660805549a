"""Ask a served bundle over HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from milonga_agent.serve import Server
from milonga_agent.served import Served


@contextmanager
def asking(served: Served) -> Iterator[httpx.Client]:
    """Serve on a free port and give a client of it."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    server = Server(listening, served)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
        yield client
    server.drain(5)
    thread.join()
    server.server_close()
