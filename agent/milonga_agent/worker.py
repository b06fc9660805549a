"""The process that holds the engine and serves. The daemon talks to it in JSON lines and stays small itself.

Down (stdin): {"do": "serve"}, {"do": "window"}, {"do": "sample", "told": {...} | null},
{"do": "copy", "told": {...} | null}, {"do": "drain"}. Up (stdout): {"is": "ready" | "failed" | "window" | "drained"}.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from milonga_agent.errors import AgentError
from milonga_agent.limits import Limits, die_with_parent
from milonga_agent.serve import Server
from milonga_agent.served import Served

_log = logging.getLogger(__name__)

_DRAIN_SECONDS = 10.0


def main() -> int:
    """Load and probe a bundle, say how that went, then do as told until stdin ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the daemon, which ends its workers.
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--slowest-ms", type=float, default=0.0, help="most that one answer may take; 0 for no limit")
    given = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print goes to the log.
    Limits(given.threads, (), given.memory_bytes).apply_memory()
    try:
        served = Served(given.bundle, given.threads, given.target, given.model)
        error = served.probe()
        if given.slowest_ms:
            served.demand(given.slowest_ms)
    except (AgentError, OSError, ValueError, MemoryError) as failure:
        _say(out, {"is": "failed", "message": str(failure) or repr(failure)})
        return 1
    _say(out, {"is": "ready", "probe_error": error, "project": served.project})
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
            _say(out, {"is": "window", "window": served.window.take()})
        elif wanted == "sample":
            _sample(served, said["told"])
        elif wanted == "copy":
            served.copy(said["told"])
        elif wanted == "drain":
            if serving is not None:
                server.drain(_DRAIN_SECONDS)
            _say(out, {"is": "drained", "window": served.window.take()})
            return


def _sample(served: Served, told: Any) -> None:
    try:
        served.sample(told)
    except AgentError as error:
        _log.error("no pictures are kept for labelling: %s", error)


def _say(out: Any, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=out, flush=True)


if __name__ == "__main__":
    sys.exit(main())
