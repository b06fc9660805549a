"""Watch a new model run beside the one that serves, and judge it when its time is over."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

from milonga_agent.comparing import Comparison, judge
from milonga_agent.engines import Choice
from milonga_agent.errors import BadBundle
from milonga_agent.limits import Limits
from milonga_agent.plan import Shadow
from milonga_agent.pursuit import Tell
from milonga_agent.workers import ANSWER_SECONDS, Child, begin

# A newer wish ends a shadow within this time.
_LOOK_SECONDS = 1.0
# Another clock in tests.
_now = time.monotonic


class ShadowWorker(Child):
    """The process that answers copies of requests, and nobody else."""

    @classmethod
    async def start(cls, address: str, bundle: Path, choice: Choice, limits: Limits) -> ShadowWorker:
        """Start the process and return when it has loaded the bundle and listens. Raises BadBundle saying why not."""
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(address)
            listening.listen(1)
            worker = cls(await begin("milonga_agent.shadowing", bundle, choice, listening, limits))
        await worker._ready()
        return worker

    async def count(self) -> Comparison:
        """Return what was counted so far. Raises BadBundle where it has ended, or does not answer."""
        try:
            await self._tell("count")
            said = await self._hear(ANSWER_SECONDS)
        except BadBundle:
            said = {}
        if "count" not in said:
            await self.kill()
            raise BadBundle(
                "the new model ended while it ran beside the one that serves"
                f" ({said.get('message') or _ending(self.process.returncode)}); is there memory for both?"
            )
        return Comparison(**said["count"])


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


async def watch(worker: ShadowWorker, wanted: Shadow, tell: Tell) -> str:
    """Return what came of the shadow once its time is over. Raises BadBundle, and whatever `tell` raises."""
    began, seconds = _now(), wanted.minutes * 60.0
    ended = asyncio.ensure_future(worker.process.wait())
    try:
        while True:
            passed = _now() - began
            seen = await worker.count()
            if passed >= seconds:
                return judge(wanted, seen)
            tell(passed / seconds, str(seen))
            await asyncio.wait([ended], timeout=min(_LOOK_SECONDS, seconds - passed))
    finally:
        ended.cancel()
