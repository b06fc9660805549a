"""Answer what an operator wants to see of this device: its log, or a bundle of diagnostics. Reads, and changes nothing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from milonga.v1 import agent_pb2

from milonga_agent.errors import AgentError
from milonga_agent.journal import Journal
from milonga_agent.outbox import Outbox
from milonga_agent.processes import ended_within
from milonga_agent.secrecy import redacted

# What one message may carry, with room for what is around it.
MAX_BYTES = 512 * 1024
_DEFAULT_BYTES = 64 * 1024
_MAX_BUNDLE_BYTES = 3 << 20
_DIAGNOSING_SECONDS = 60.0


class Helping:
    """Answers one request after the other. `await helping.run()` works until it is cancelled."""

    def __init__(self, folder: Path, journal: Journal, outbox: Outbox, secrets: tuple[str, ...]) -> None:
        self._folder = folder
        self._journal = journal
        self._outbox = outbox
        self._secrets = secrets
        self._asked: asyncio.Queue[agent_pb2.HelpRequest] = asyncio.Queue()

    def ask(self, request: agent_pb2.HelpRequest) -> None:
        self._asked.put_nowait(request)

    async def run(self) -> None:
        while True:
            request = await self._asked.get()
            try:
                answer = await self._answer(request)
            except (AgentError, OSError) as error:
                answer = agent_pb2.HelpAnswer(error=str(error))
            answer.id = request.id
            self._outbox.send(help_answer=answer)

    async def _answer(self, request: agent_pb2.HelpRequest) -> agent_pb2.HelpAnswer:
        if request.kind == agent_pb2.HELP_KIND_LOG:
            content, cursor = self._journal.read(request.cursor, min(request.max_bytes or _DEFAULT_BYTES, MAX_BYTES))
            text = redacted(content.decode("utf-8", "replace"), self._secrets)
            return agent_pb2.HelpAnswer(content=text.encode("utf-8"), cursor=cursor)
        if request.kind == agent_pb2.HELP_KIND_DIAGNOSTICS:
            return agent_pb2.HelpAnswer(content=await self._diagnostics())
        raise AgentError("this agent does not know what is asked of it; update the agent")

    async def _diagnostics(self) -> bytes:
        """Have a process of its own collect it: the daemon stays small."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "milonga_agent.diagnostics", str(self._folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            # By a pipe, not as arguments, which every user of the machine can read.
            secrets = "\n".join(self._secrets).encode("utf-8")
            content, _ = await ended_within(process, _DIAGNOSING_SECONDS, secrets)
        except asyncio.TimeoutError:
            raise AgentError(f"the diagnostics were not ready within {_DIAGNOSING_SECONDS:.0f} s") from None
        if process.returncode != 0:
            raise AgentError(
                f"collecting the diagnostics ended with exit code {process.returncode}; see the agent's log"
            )
        if len(content) > _MAX_BUNDLE_BYTES:
            raise AgentError(f"the diagnostics have {len(content)} bytes, more than a message may carry")
        return bytes(content)
