"""python -m milonga_agent.simulation: a simulation in a line of JSON on stdin, progress and summary in such lines on stdout.

`milonga simulate` starts it. The end of stdin ends it early, as do SIGINT and SIGTERM, with a summary all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from typing import Any

from milonga_agent.errors import AgentError
from milonga_agent.simulation.fleet import Fleet
from milonga_agent.simulation.spec import Simulation

_PROGRESS_SECONDS = 1.0
_LINE_BYTES = 1 << 20


async def _run() -> int:
    loop = asyncio.get_running_loop()
    told = asyncio.StreamReader(limit=_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
    fleet = Fleet(Simulation.of(json.loads(await told.readline())))
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    stopping = [asyncio.ensure_future(ended.wait()), asyncio.ensure_future(told.read())]
    running = asyncio.ensure_future(fleet.run())
    while not running.done():
        await asyncio.wait([running, *stopping], timeout=_PROGRESS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        _say("progress", fleet.tally.progress())
        if any(each.done() for each in stopping):
            running.cancel()
            await asyncio.wait([running])
    for each in stopping:
        each.cancel()
    if not running.cancelled():
        running.result()
    _say("summary", fleet.tally.summary())
    return 0


def _say(kind: str, said: dict[str, Any]) -> None:
    # Whoever started this may have gone; what is under way still ends in order.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"is": kind, **said}), flush=True)


def main() -> int:
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    try:
        return asyncio.run(_run())
    except AgentError as error:
        _say("error", {"message": str(error)})
        return 1


if __name__ == "__main__":
    sys.exit(main())
