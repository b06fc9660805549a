"""The gate for gRPC: who calls by the metadata `authorization`, what by the method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from google.protobuf.message import Message

from milonga_hub.accounts.gate import Gate
from milonga_hub.accounts.rules_access import GRPC
from milonga_hub.callers import Caller, ask, leave_unrecorded
from milonga_hub.errors import MilongaError, TooOften
from milonga_hub.transports.grpc_calls import code_of, host_of

# A stream ends so long after its caller lost the right to it.
VALID_SECONDS = 15.0
# Fields of requests that name what they are about, the first that is filled.
_NAMES = ("name", "id", "rollout", "run", "device", "model_version", "dataset", "project", "channel", "rule", "label")


class Door:
    """The gate, in front of one method."""

    def __init__(self, gate: Gate | None, method: str, *, lasts: bool) -> None:
        """`lasts` says that answers come for a while, during which the caller may lose the right to them."""
        self._gate = gate
        self._method = method
        self._access = GRPC.get(method)
        self.lasts = lasts

    @asynccontextmanager
    async def passed(self, request: Any, context: Any) -> AsyncIterator[None]:
        """Let the call through or raise, and write what it changed or why it did not."""
        if self._gate is None:
            yield
            return
        asking = ask(self._caller(context))
        outcome = "OK"
        try:
            self._gate.check(self._access, asking.caller)
            if self._access is not None:
                self._gate.check_limits(self._method, self._access, asking, partial(_field, request))
            yield
        except MilongaError as error:
            outcome = f"{code_of(error).name}: {error}"
            if isinstance(error, TooOften):
                leave_unrecorded()
            raise
        except BaseException as error:
            outcome = "CANCELLED" if isinstance(error, asyncio.CancelledError) else "INTERNAL"
            raise
        finally:
            if self._access is not None and self._access.changes:
                await self._gate.record(asking, self._method[1:], resource_of(request), outcome, host_of(context))

    async def while_valid(self, answering: Coroutine[Any, Any, Any], context: Any) -> Any:
        """Return what the call answers; a stream ends with an error soon after its caller was signed out."""
        if self._gate is None or not self.lasts:
            return await answering
        task = asyncio.create_task(answering)
        try:
            while not (await asyncio.wait({task}, timeout=VALID_SECONDS))[0]:
                self._gate.check(self._access, self._caller(context))
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def check_open(self) -> None:
        """Raise where a service that cannot be made to wait for the gate would need to."""
        if self._gate is not None:
            self._gate.check(self._access, None)

    def _caller(self, context: Any) -> Caller | None:
        assert self._gate is not None
        # Who asks how to sign in may have a key that is good no more.
        if self._access is not None and self._access.least is None:
            return None
        metadata = dict(context.invocation_metadata() or ())
        return self._gate.identify(authorization=str(metadata.get("authorization", "")))


def _field(request: Any, name: str) -> str:
    return str(getattr(request, name, ""))


def resource_of(request: Any) -> str:
    """Return the name of what the request is about, "" where it has none."""
    if not isinstance(request, Message):
        return ""
    return next((value for name in _NAMES if isinstance(value := getattr(request, name, ""), str) and value), "")
