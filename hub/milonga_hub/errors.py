"""The errors that services raise. Transports translate them in one table each; messages say what to do next.

Each bears a `reason` for programs, which stays as it is: docs/api/errors.md has all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from milonga.status import FieldViolation


def complaint(detail: Mapping[str, Any]) -> str:
    """Return what pydantic says of one value; of our own checks it is their words alone."""
    return str(detail["msg"]).removeprefix("Value error, ")


class MilongaError(Exception):
    """Base of all domain errors. The message is shown to people as it is."""

    reason: ClassVar[str] = "FAILED"
    # Of the request, where it is known which fields are wrong.
    violations: tuple[FieldViolation, ...] = ()
    # When another try may succeed, where that is known.
    retry_after_seconds: float | None = None


class InvalidInput(MilongaError):
    """What was sent cannot be used."""

    reason = "INVALID_INPUT"

    def __init__(self, message: str, violations: tuple[FieldViolation, ...] = ()) -> None:
        super().__init__(message)
        self.violations = violations

    def within(self, path: str) -> InvalidInput:
        """Return the same error of what contains the value: its fields are named from there."""
        return InvalidInput(
            str(self), tuple(FieldViolation(f"{path}.{each.field}", each.description) for each in self.violations)
        )


class NotFound(MilongaError):
    """The named thing does not exist."""

    reason = "NOT_FOUND"


class AlreadyExists(MilongaError):
    """The name is taken by something else."""

    reason = "ALREADY_EXISTS"


class FailedPrecondition(MilongaError):
    """The thing is not in a state that allows this."""

    reason = "FAILED_PRECONDITION"


class DecidedMeanwhile(FailedPrecondition):
    """Somebody else has decided since the caller looked; nothing was changed."""

    reason = "DECIDED_MEANWHILE"


class Unauthenticated(MilongaError):
    """The caller did not prove who it is."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(MilongaError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"


class ResourceExhausted(MilongaError):
    """A disk, quota or limit is full."""

    reason = "RESOURCE_EXHAUSTED"


class OutOfRoom(ResourceExhausted):
    """A disk is full; what was to be kept can be kept once it is not."""


class QuotaExceeded(ResourceExhausted):
    """A project takes as much as it may."""

    reason = "QUOTA_EXCEEDED"


class TooOften(ResourceExhausted):
    """The caller has to wait before the next try."""

    reason = "TOO_OFTEN"

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class BlobsUnreachable(MilongaError):
    """The store of blobs does not answer, or refuses the hub; what was accepted before is there when it does again."""

    reason = "BLOBS_UNREACHABLE"
    # Devices and programs ask again; what passes by itself has passed by then.
    retry_after_seconds = 10.0


class DatabaseUnreachable(MilongaError):
    """The hub's database is away, or busy for too long; nothing of the call was kept unless it was answered before."""

    reason = "DATABASE_UNREACHABLE"
    retry_after_seconds = 5.0


class BlobDamaged(MilongaError):
    """What a store of blobs returns is not what was kept there."""

    reason = "BLOB_DAMAGED"
