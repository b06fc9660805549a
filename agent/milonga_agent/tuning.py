"""Time kernels for a hub that tunes a network for this type of device: fetched, followed to a trusted key, run in a process apart."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from milonga.tuning_session import read_session
from milonga.v1 import agent_pb2, common_pb2

from milonga_agent.bundles import Bundles
from milonga_agent.errors import AgentError, HubUnreachable, Untrusted
from milonga_agent.files import write_atomically
from milonga_agent.limits import Limits
from milonga_agent.outbox import Outbox
from milonga_agent.plan import WantedFile, Wish
from milonga_agent.processes import ended_within

# Beyond what the kernels may take: importing the runtime on a slow board, unpacking.
_SLACK_SECONDS = 60.0


class Tuning:
    """Times what was asked for, in order. `await tuning.run()` works until it is cancelled.

    `turn` is whose holder may measure: two at once would disturb each other.
    """

    def __init__(self, folder: Path, limits: Limits, bundles: Bundles, outbox: Outbox, turn: asyncio.Lock) -> None:
        self._folder = folder / "tuning"
        self._limits = limits
        self._bundles = bundles
        self._outbox = outbox
        self._turn = turn
        self._asked: asyncio.Queue[agent_pb2.TuningRequest] = asyncio.Queue()
        # Sessions that were followed to a trusted key since this agent began.
        self._trusted: set[str] = set()

    def ask(self, request: agent_pb2.TuningRequest) -> None:
        self._asked.put_nowait(request)

    async def run(self) -> None:
        while True:
            request = await self._asked.get()
            with contextlib.suppress(HubUnreachable):  # The hub asks again when it is back.
                self._outbox.send(tuning_result=await self.time(request))

    async def time(self, request: agent_pb2.TuningRequest) -> agent_pb2.TuningResult:
        """Return what the kernels take, once nothing else is measured. Raises HubUnreachable."""
        async with self._turn:
            try:
                return result_of(request.id, await self._timed(request))
            except HubUnreachable:
                raise
            except (AgentError, OSError) as error:
                return agent_pb2.TuningResult(id=request.id, error=str(error))
            finally:
                shutil.rmtree(str(self._folder), ignore_errors=True)

    async def _timed(self, request: agent_pb2.TuningRequest) -> dict[str, Any]:
        bundles, depot = self._bundles, self._bundles.depot
        session, kernels = _file(request.session), _file(request.kernels)
        bundles.to_measure = wish = Wish(files=(session, kernels))
        try:
            await depot.download(wish.files, bundles.courier, lambda fraction: None)
            depot.verify(wish)
            await self._trust(session)
            return await self._process(request, session, kernels)
        finally:
            bundles.to_measure = Wish()
            bundles.collect()

    async def _trust(self, session: WantedFile) -> None:
        """Return if the session is signed for the project that it names, as bundles are. Raises Untrusted."""
        if session.digest in self._trusted:
            return
        try:
            project = read_session(self._bundles.depot.blob(session.digest).read_bytes()).project
        except ValueError as error:
            raise Untrusted(str(error)) from error
        await self._bundles.check_signed(project, session)
        self._trusted.add(session.digest)

    async def _process(
        self, request: agent_pb2.TuningRequest, session: WantedFile, kernels: WantedFile
    ) -> dict[str, Any]:
        shutil.rmtree(str(self._folder), ignore_errors=True)
        self._folder.mkdir()
        spec = {
            "id": request.id,
            "session": str(self._bundles.depot.blob(session.digest)),
            "session_digest": session.digest,
            "kernels": str(self._bundles.depot.blob(kernels.digest)),
            "kernels_digest": kernels.digest,
            "signature": base64.b64encode(request.signature).decode(),
            "folder": str(self._folder),
            "threads": self._limits.threads,
            "memory_bytes": self._limits.memory_bytes,
            "seconds_each": request.seconds_each,
            "max_seconds_each": request.max_seconds_each,
            "max_seconds": request.max_seconds,
        }
        write_atomically(self._folder / "spec.json", json.dumps(spec).encode("utf-8"))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "milonga_agent.kernels",
            str(self._folder / "spec.json"),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            out, _ = await ended_within(process, request.max_seconds + _SLACK_SECONDS)
            said: dict[str, Any] = json.loads(out.splitlines()[-1])
        except asyncio.TimeoutError:
            return {"error": f"the kernels did not end within {request.max_seconds + _SLACK_SECONDS:.0f} s"}
        except (ValueError, IndexError):
            return {"error": f"the timing process ended with exit code {process.returncode}"}
        return said


def result_of(id_: str, said: dict[str, Any]) -> agent_pb2.TuningResult:
    """Return what the timing process said, as the hub hears it."""
    kernels = [
        agent_pb2.KernelTime(ms=one.get("ms", 0.0), error=one.get("error", "")) for one in said.get("kernels", ())
    ]
    return agent_pb2.TuningResult(id=id_, error=said.get("error", ""), kernels=kernels)


def _file(told: common_pb2.File) -> WantedFile:
    return WantedFile(told.path, told.digest, told.size_bytes)
