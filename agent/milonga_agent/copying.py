"""Send copies of the requests that a worker has answered to a shadow: one at a time, after the answer, and never in its way.

A copy is two lengths, then a line of JSON about the answer that was given, then the body as the client sent it. The shadow
answers each with one byte when it has compared; requests that come before are skipped and counted.
"""

from __future__ import annotations

import json
import logging
import random
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from milonga_agent.agreement import summary
from milonga_agent.answers import Answer

_log = logging.getLogger(__name__)

_LENGTHS = struct.Struct(">IQ")
COMPARED = b"."


class Copy(NamedTuple):
    """A request and what was answered, as the shadow receives it."""

    # "answer": see agreement.summary; "milliseconds"; "skipped": since the copy before; "header_length": None or that of the JSON.
    told: Mapping[str, Any]
    body: bytes


class Copier:
    """Sends copies to the shadow that listens at `address` until it is gone. Safe to use from several threads."""

    def __init__(self, address: str, share: float) -> None:
        self._address = address
        self._share = share
        # Which requests are copied is nobody's secret.
        self._random = random.Random()
        self._changed = threading.Condition()
        self._waiting: tuple[bytes, int | None, Answer] | None = None
        self._busy = False
        self._skipped = 0
        self._ended = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="copies", daemon=True).start()

    def stop(self) -> None:
        with self._changed:
            self._ended = True
            self._waiting = None
            self._changed.notify_all()

    def offer(self, body: bytes, header_length: int | None, answer: Answer) -> None:
        """Take a request that was answered, unless one is under way. Returns at once and raises nothing."""
        with self._changed:
            if self._ended or self._random.random() >= self._share:
                return
            if self._busy:
                self._skipped += 1
                return
            self._busy, self._waiting = True, (body, header_length, answer)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(self._address)
                while self._send_next(line):
                    pass
        except OSError as error:
            _log.warning("no more requests are copied to the shadow: %s", error)
        self.stop()

    def _send_next(self, line: socket.socket) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._waiting is not None)
            if self._waiting is None:
                return False
            (body, header_length, answer), self._waiting = self._waiting, None
            skipped, self._skipped = self._skipped, 0
        told = {
            "answer": summary(answer),
            "milliseconds": answer.milliseconds,
            "skipped": skipped,
            "header_length": header_length,
        }
        head = json.dumps(told).encode()
        line.sendall(_LENGTHS.pack(len(head), len(body)) + head)
        line.sendall(body)
        if line.recv(1) != COMPARED:
            return False
        with self._changed:
            self._busy = False
        return True


def receive(line: socket.socket) -> Copy | None:
    """Return the next copy, None where the worker has gone."""
    lengths = _exactly(line, _LENGTHS.size)
    if lengths is None:
        return None
    head_bytes, body_bytes = _LENGTHS.unpack(lengths)
    head, body = _exactly(line, head_bytes), _exactly(line, body_bytes)
    return None if head is None or body is None else Copy(json.loads(head), body)


def _exactly(line: socket.socket, size: int) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        part = line.recv(min(1 << 20, size - len(received)))
        if not part:
            return None
        received += part
    return bytes(received)
