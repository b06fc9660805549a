"""The process that holds the engine and serves. The daemon talks to it in JSON lines and stays small itself.

Down (stdin): {"do": "serve"}, {"do": "window"}, {"do": "sample", "told": {...} | null},
{"do": "copy", "told": {...} | null}, {"do": "drain"}. Up (stdout): {"is": "ready" | "failed" | "window" | "drained"}.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
import threading
from typing import Any

from milonga_agent.errors import AgentError
from milonga_agent.loading import begin, load, say
from milonga_agent.serve import Server
from milonga_agent.served import Served

_log = logging.getLogger(__name__)

_DRAIN_SECONDS = 10.0


def main() -> int:
    """Load and probe a bundle, say how that went, then do as told until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slowest-ms", type=float, default=0.0, help="most that one answer may take; 0 for no limit")
    given, out = begin(parser)

    def check(served: Served) -> float:
        error = served.probe()
        if given.slowest_ms:
            served.demand(given.slowest_ms)
        return error

    loaded = load(given, out, check)
    if loaded is None:
        return 1
    served, error = loaded
    say(out, {"is": "ready", "probe_error": error, "project": served.project})
    _obey(out, socket.socket(fileno=given.socket), served)
    return 0


def _obey(out: Any, listening: socket.socket, served: Served) -> None:
    server = Server(listening, served)
    serving: threading.Thread | None = None
    for line in sys.stdin:
        said = json.loads(line)
        wanted = said["do"]
        if wanted == "serve" and serving is None:
            # A short poll, so that draining is quick.
            serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            serving.start()
        elif wanted == "window":
            say(out, {"is": "window", "window": served.window.take()})
        elif wanted == "sample":
            _sample(served, said["told"])
        elif wanted == "copy":
            served.copy(said["told"])
        elif wanted == "drain":
            if serving is not None:
                server.drain(_DRAIN_SECONDS)
            say(out, {"is": "drained", "window": served.window.take()})
            return


def _sample(served: Served, told: Any) -> None:
    try:
        served.sample(told)
    except AgentError as error:
        _log.error("no pictures are kept for labelling: %s", error)


if __name__ == "__main__":
    sys.exit(main())
