"""The process in which a new model answers copies of real requests, beside the worker that serves: nobody gets its answers.

The daemon asks it in JSON lines: {"do": "count"} is answered with the counts of comparing.Comparison. It ends with its stdin.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import struct
import sys
import threading
from pathlib import Path
from typing import Any

from milonga_agent.agreement import compare, size, summary
from milonga_agent.answers import Answer
from milonga_agent.copying import COMPARED, Copy, receive
from milonga_agent.loading import begin, load, say
from milonga_agent.served import Served
from milonga_agent.tensors import parse

# Of a CPU that both want, what serves gets nine parts of ten.
_NICENESS = 10
# Where memory runs out, the kernel ends the shadow before anything else.
_FIRST_TO_GO = "1000"
# Enough for a median; beyond it the newest take the place of the oldest.
_MOST_TIMES = 20_000


class Comparing:
    """Answers copies, and counts how often it says what was said to the client. Safe to use from several threads."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._lock = threading.Lock()
        self._counts = {"requests": 0, "skipped": 0, "failed": 0, "answers": 0, "agreeing": 0}
        # Of the worker that serves, and of this model, over the same requests.
        self._times: tuple[list[float], list[float]] = ([], [])

    def see(self, copy: Copy) -> None:
        """Answer a copy and compare."""
        given = copy.told["answer"]
        try:
            answer = self._answer(copy)
        except Exception:  # Whatever an engine raises, a client would have got no answer.
            answers, agreeing, failed = size(given), 0, 1
        else:
            answers, agreeing = compare(given, summary(answer))
            failed = 0
            self._time(copy.told["milliseconds"], answer.milliseconds)
        with self._lock:
            added = (1, copy.told["skipped"], failed, answers, agreeing)
            for name, more in zip(self._counts, added):
                self._counts[name] += int(more)

    def count(self) -> dict[str, Any]:
        with self._lock:
            serving_ms, shadow_ms = (statistics.median(times) if times else 0.0 for times in self._times)
            return {**self._counts, "serving_ms": serving_ms, "shadow_ms": shadow_ms}

    def _answer(self, copy: Copy) -> Answer:
        served = self._served
        request = parse(copy.body, copy.told["header_length"], tuple(one.name for one in served.outputs))
        if request.pictures is not None:
            return served.of_pictures(request.pictures)
        assert request.image is not None
        return served.of_tensor(request.image)

    def _time(self, serving_ms: float, shadow_ms: float) -> None:
        with self._lock:
            for times, taken in zip(self._times, (serving_ms, shadow_ms)):
                times.append(taken)
                del times[:-_MOST_TIMES]

    def listen(self, listening: socket.socket) -> None:
        """Take copies from one worker after the other: one that serves may end, and the next one goes on."""
        while True:
            line, _ = listening.accept()
            with line:
                if _user_of(line) != os.geteuid():
                    continue
                try:
                    while (copy := receive(line)) is not None:
                        self.see(copy)
                        line.sendall(COMPARED)
                except (OSError, ValueError):
                    pass  # The worker has ended.


def main() -> int:
    """Load and probe a bundle, say how that went, then compare until stdin ends."""
    given, out = begin(argparse.ArgumentParser())
    _give_way()
    loaded = load(given, out, Served.probe)
    if loaded is None:
        return 1
    served, _ = loaded
    comparing = Comparing(served)
    threading.Thread(target=comparing.listen, args=(socket.socket(fileno=given.socket),), daemon=True).start()
    say(out, {"is": "ready"})
    for _ in sys.stdin:
        say(out, {"is": "count", "count": comparing.count()})
    return 0


def _user_of(line: socket.socket) -> int:
    """Return who is at the other end: any user of the machine can find the address."""
    credentials = struct.Struct("3i")  # struct ucred: pid, uid, gid
    told = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    return int(credentials.unpack(told)[1])


def _give_way() -> None:
    """Leave CPU and memory to what serves; before engines start threads, which inherit it."""
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):  # Where the kernel has no such file.
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
