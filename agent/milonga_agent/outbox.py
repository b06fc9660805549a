"""What the hub is to hear. Reports of steps wait while it is away; all else is said again by whoever knows it."""

from __future__ import annotations

import asyncio
from typing import Any

from milonga.v1 import agent_pb2


class Outbox:
    """Messages for the stream that is open, in order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[agent_pb2.ConnectRequest] = asyncio.Queue()
        self._unsent: list[agent_pb2.StepReport] = []
        self.is_open = False

    def open(self, hello: agent_pb2.Hello) -> asyncio.Queue[agent_pb2.ConnectRequest]:
        """Return the messages of a new stream: the hello, the reports that waited, and what is sent from now on."""
        self._queue = asyncio.Queue()
        self.is_open = True
        self.send(hello=hello)
        for report in self._unsent:
            self.send(step=report)
        self._unsent.clear()
        return self._queue

    def close(self) -> None:
        self.is_open = False

    def send(self, **message: Any) -> None:
        """Send one message of the stream, named as in the protocol; without a stream it is lost."""
        self._queue.put_nowait(agent_pb2.ConnectRequest(**message))

    def report(self, report: agent_pb2.StepReport) -> None:
        """Send the report now, or once the hub is back."""
        if self.is_open:
            self.send(step=report)
        else:
            self._unsent.append(report)
