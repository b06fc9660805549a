"""Errors become gRPC statuses here, and nowhere else: a code, a message for people, a reason and details for programs."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import grpc
from milonga.status import METADATA_KEY, Problem, pack

from milonga_hub import counts
from milonga_hub.errors import MilongaError
from milonga_hub.transports.grpc_calls import code_of
from milonga_hub.transports.grpc_door import resource_of

_LOG = logging.getLogger(__name__)

# Peers accept 8 KiB of headers. The message travels percent-encoded in one and, with the details, as base64 in another.
_MAX_BYTES = 7000


async def abort(error: Exception, method: str, request: Any, context: Any) -> None:
    """End the call with what the error says; of one that nobody expected the caller learns only a number."""
    if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError) or context.cancelled():
        raise error
    code = code_of(error) if isinstance(error, MilongaError) else grpc.StatusCode.INTERNAL
    counts.grpc_calls[method, code.name] += 1
    problem = _fitting(_problem(error, code, method, resource_of(request)))
    await context.abort(code, problem.message, ((METADATA_KEY, pack(problem)),))


def _problem(error: Exception, code: grpc.StatusCode, method: str, resource: str) -> Problem:
    metadata = {"resource": resource} if resource else {}
    number = code.value[0]
    if isinstance(error, MilongaError):
        return Problem(number, str(error), error.reason, metadata, error.violations, error.retry_after_seconds)
    of_log = secrets.token_hex(4)
    _LOG.error("error %s in %s", of_log, method, exc_info=error)
    message = f"unexpected error {of_log}; the hub's log says more under this number"
    return Problem(number, message, "INTERNAL", {**metadata, "number": of_log})


def _fitting(problem: Problem) -> Problem:
    """Return as much of the problem as fits the headers: details that are too much go first, then the message's end."""
    if _size_bytes(problem) <= _MAX_BYTES:
        return problem
    spare = replace(problem, metadata={}, violations=())
    room_bytes = _MAX_BYTES - _size_bytes(replace(spare, message=""))
    for index, character in enumerate(spare.message):
        room_bytes -= _size_of(character)
        if room_bytes < 0:
            return replace(spare, message=spare.message[:index])
    return spare


def _size_bytes(problem: Problem) -> int:
    details = pack(replace(problem, message=""))
    return -(-4 * len(details) // 3) + sum(_size_of(character) for character in problem.message)


def _size_of(character: str) -> int:
    """Return what a character takes in both headers."""
    return len(quote(character, safe=" ", errors="replace")) + -(-4 * len(character.encode(errors="replace")) // 3)
