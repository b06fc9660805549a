"""Send the pictures that wait to the hub, as the project's policy says; what it does not allow is deleted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from milonga.v1 import agent_pb2
from milonga.waiting import within

from milonga_agent.errors import AgentError
from milonga_agent.sample_folder import SampleFolder

_log = logging.getLogger(__name__)

# How often the folder is looked into, and how long it is left alone where the hub takes nothing of it.
_LOOK_SECONDS = 15.0
_PATIENCE_SECONDS = 300.0
# A call carries few pictures, so that what was sent counts soon.
_BATCH = 16
_CHUNK_BYTES = 64 * 1024


class Hub(Protocol):
    """What of the hub is needed here; see hub.py's Courier."""

    async def offer_samples(self, request: agent_pb2.OfferSamplesRequest) -> agent_pb2.OfferSamplesResponse: ...

    async def upload_samples(self, messages: AsyncIterator[agent_pb2.UploadSamplesRequest]) -> Sequence[str]: ...


class SampleSending:
    """Until the hub has told a policy nothing is sent; `apply(project, policy)` tells whatever serves what it may keep.

    Where the device's own operator does not allow it, no policy counts, and what was kept before is deleted without a hub.
    """

    def __init__(
        self,
        folder: SampleFolder,
        hub: Hub,
        apply: Callable[[str, dict[str, Any] | None], Awaitable[None]],
        allowed: bool = True,
    ) -> None:
        self._folder = folder
        self._hub = hub
        self._apply = apply
        self._allowed = allowed
        self._policy = None if allowed else agent_pb2.SamplingPolicy()
        self._told = asyncio.Event()
        if not allowed:
            self._told.set()
        self._changed = asyncio.Event()
        self._random = random.Random()

    def set_policy(self, policy: agent_pb2.SamplingPolicy) -> None:
        """Follow what the hub says from now on."""
        if self._allowed and policy != self._policy:
            self._policy = policy
            self._told.set()

    async def run(self) -> None:
        """Follow policies and send what waits, until cancelled."""
        following = asyncio.ensure_future(self._follow())
        try:
            await self._keep_sending()
        finally:
            following.cancel()

    async def _follow(self) -> None:
        """Apply each new policy at once, whatever is being sent."""
        while True:
            await self._told.wait()
            self._told.clear()
            try:
                await self.follow()
            except OSError as error:
                _log.error("pictures that may not be kept are not deleted yet: %s", error)
            self._changed.set()

    async def follow(self) -> None:
        """Let what serves keep pictures by the policy of now, and delete those that it does not allow."""
        policy = self._policy
        if policy is None:
            return
        names = ("least_confident", "novel", "random", "pictures_per_day", "bytes_per_day", "max_side_px")
        told = {"project": policy.project, **{name: getattr(policy, name) for name in names}}
        await self._apply(policy.project, told if policy.enabled else None)
        # The worker may be keeping one more picture just now; the next look into the folder deletes it.
        self._folder.clear(policy.project if policy.enabled else "")

    async def _keep_sending(self) -> None:
        while True:
            seconds = _LOOK_SECONDS
            try:
                if not await self.send():
                    seconds = _PATIENCE_SECONDS
            except (AgentError, OSError) as error:
                _log.warning("samples wait: %s", error)
                seconds = _PATIENCE_SECONDS * self._random.uniform(0.5, 1.0)
            with contextlib.suppress(asyncio.TimeoutError):
                await within(self._changed.wait(), seconds)
            self._changed.clear()

    async def send(self) -> bool:
        """Send what the hub takes now; return False where something has to wait. Raises HubUnreachable or Refused."""
        policy = self._policy
        if policy is None:
            return True
        if not policy.enabled:
            self._folder.clear()
            return True
        waiting = self._folder.digests()
        digests = list(waiting)
        for start in range(0, len(digests), _BATCH):
            batch = digests[start : start + _BATCH]
            answer = await self._hub.offer_samples(
                agent_pb2.OfferSamplesRequest(
                    project=policy.project, digests=batch, dropped_count=self._folder.ledger().dropped
                )
            )
            done = list(answer.done)
            if answer.wanted:
                done += await self._hub.upload_samples(
                    self._messages([waiting[one] for one in answer.wanted if one in waiting])
                )
            for digest in done:
                if digest in waiting:
                    waiting.pop(digest).unlink(missing_ok=True)
            if any(digest in waiting for digest in batch):
                return False
        return True

    async def _messages(self, paths: Sequence[Path]) -> AsyncIterator[agent_pb2.UploadSamplesRequest]:
        for path in paths:
            sample = self._folder.read(path)
            # The policy may have changed while the pictures before were on their way.
            if sample is None or self._policy is None or not self._policy.enabled:
                continue
            if sample.header.project != self._policy.project:
                path.unlink(missing_ok=True)
                continue
            yield agent_pb2.UploadSamplesRequest(header=sample.header)
            for start in range(0, len(sample.picture), _CHUNK_BYTES):
                yield agent_pb2.UploadSamplesRequest(chunk=sample.picture[start : start + _CHUNK_BYTES])
