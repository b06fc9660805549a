"""How a process that holds a bundle begins, whether it serves or is a shadow: what it is told, and what it says once it has loaded."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any, Callable, TextIO, TypeVar

from milonga.ending import die_with_parent

from milonga_agent.errors import AgentError
from milonga_agent.limits import Limits
from milonga_agent.served import Served

T = TypeVar("T")


def begin(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, TextIO]:
    """Return what the daemon told, and where it listens; what libraries print goes to the log."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the daemon, which ends its workers.
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    given = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return given, out


def load(given: argparse.Namespace, out: TextIO, check: Callable[[Served], T]) -> tuple[Served, T] | None:
    """Return the bundle within its limits, and what the check of it returned; None, once it is said, where that failed."""
    Limits(given.threads, (), given.memory_bytes).apply_memory()
    try:
        served = Served(given.bundle, given.threads, given.target, given.model)
        return served, check(served)
    except (AgentError, OSError, ValueError, MemoryError) as failure:
        say(out, {"is": "failed", "message": str(failure) or repr(failure)})
        return None


def say(out: TextIO, message: dict[str, Any]) -> None:
    """Tell the daemon, in a line of JSON."""
    print(json.dumps(message), file=out, flush=True)
