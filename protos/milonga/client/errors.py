"""What goes wrong between a program and a hub. Messages are for people and say what to do next; programs look at the
class, and at `reason` where they need to know more: docs/api/errors.md lists the reasons.

    HubError
    ├── NotTrusted           nobody has vouched for the hub, or it is another one
    ├── Unreachable          no answer, or something that the hub needs does not answer
    │   └── DeadlineExceeded   none in time
    └── CallFailed           the hub's answer is an error
        ├── InvalidInput       with the fields that cannot be used
        ├── NotFound
        ├── AlreadyExists
        ├── FailedPrecondition
        ├── Unauthenticated
        ├── PermissionDenied
        ├── ResourceExhausted  with the time after which another try may succeed, where the hub knows
        ├── Unimplemented      the hub is older than the client
        └── Internal
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from milonga.status import METADATA_KEY, FieldViolation, Problem, unpack


class HubError(Exception):
    """Base of all that this client raises."""


class NotTrusted(HubError):
    """Nobody on this machine has vouched for the hub there, or another one answers."""


class Unreachable(HubError):
    """The hub did not answer. Whether a change was made is not known: repeat it with the same request_id, or look."""


class DeadlineExceeded(Unreachable):
    """The hub did not answer in time."""


class CallFailed(HubError):
    """The hub answered with an error."""

    def __init__(self, message: str, code: grpc.StatusCode, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.code = code
        # For programs, and stable; of a hub that does not tell it, the name of the code.
        self.reason: str = code.name if problem is None else problem.reason
        # "resource" is the name in the request, "number" that of an error in the hub's log.
        self.metadata: Mapping[str, str] = {} if problem is None else problem.metadata
        self.violations: tuple[FieldViolation, ...] = () if problem is None else problem.violations
        self.retry_after_seconds: float | None = None if problem is None else problem.retry_after_seconds


class InvalidInput(CallFailed):
    """What was sent cannot be used; `violations` names the fields, where they are known."""


class NotFound(CallFailed):
    """The named thing does not exist."""


class AlreadyExists(CallFailed):
    """The name is taken by something else."""


class FailedPrecondition(CallFailed):
    """The thing is not in a state that allows this."""


class Unauthenticated(CallFailed):
    """The hub does not know who calls: there is no API key, or it is good no more."""


class PermissionDenied(CallFailed):
    """The caller is known and may not do this."""


class ResourceExhausted(CallFailed):
    """A disk, quota or limit is full; `retry_after_seconds` is set where waiting helps."""


class Unimplemented(CallFailed):
    """The hub does not know this call: it is older than the client."""


class Internal(CallFailed):
    """The hub failed; its log says more under the number in the message."""


_CLASSES: dict[grpc.StatusCode, type[CallFailed]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
}


def unreachable(address: str) -> str:
    """Return what to tell people where nobody answers."""
    return (
        f"no answer from a hub at {address}; start one with: milonga up, or name yours with --hub or MILONGA_HUB: by the port for programs"
        " (8443 unless it was started with another), not the dashboard's"
    )


def of_call(error: Any, address: str) -> HubError:
    """Return what a grpc.RpcError of a call to the hub at this address says."""
    code: grpc.StatusCode = error.code()
    details: str = error.details() or code.name
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(unreachable(address))
    trailing = dict(error.trailing_metadata() or ())
    status = trailing.get(METADATA_KEY)
    problem = unpack(status) if isinstance(status, bytes) else None
    if code is grpc.StatusCode.UNAVAILABLE:
        # Where the hub itself says so, something that it needs does not answer.
        return Unreachable(unreachable(address) if problem is None else details)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unimplemented(f"the hub at {address} does not know this call; update it, or check the address", code)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        # The hub cannot know by which address it is called.
        details = details.replace("HOST:PORT", address)
    return _CLASSES.get(code, CallFailed)(details, code, problem)
