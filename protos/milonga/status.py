"""What a gRPC error says of itself to programs: a google.rpc.Status in the trailing metadata, written and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message

from milonga.v1 import errors_pb2 as pb

# The key of the metadata, as all of gRPC's libraries have it.
METADATA_KEY = "grpc-status-details-bin"
DOMAIN = "milonga"
_TYPE_URL = "type.googleapis.com/google.rpc."


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that cannot be used."""

    # Path in the request: "spec.limits[0].latency_ms".
    field: str
    description: str


@dataclass(frozen=True)
class Problem:
    """Why a call failed."""

    # A gRPC status code, for example 5 for NOT_FOUND.
    code: int
    message: str
    # For programs, and stable: "NOT_FOUND", "TOO_OFTEN".
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[FieldViolation, ...] = ()
    # None where waiting does not help, or nobody knows for how long.
    retry_after_seconds: float | None = None


def pack(problem: Problem) -> bytes:
    """Return the problem as a google.rpc.Status."""
    details: list[Message] = [pb.ErrorInfo(reason=problem.reason, domain=DOMAIN, metadata=dict(problem.metadata))]
    if problem.violations:
        violations = [
            pb.BadRequest.FieldViolation(field=each.field, description=each.description) for each in problem.violations
        ]
        details.append(pb.BadRequest(field_violations=violations))
    if problem.retry_after_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(round(problem.retry_after_seconds * 1e9))
        details.append(pb.RetryInfo(retry_delay=delay))
    packed = [Packed(type_url=f"{_TYPE_URL}{_name(each)}", value=each.SerializeToString()) for each in details]
    return pb.ErrorStatus(code=problem.code, message=problem.message, details=packed).SerializeToString()


def unpack(status: bytes) -> Problem | None:
    """Return what a google.rpc.Status says, None where it is none or says nothing that the hub would."""
    try:
        told = pb.ErrorStatus.FromString(status)
        by_name = {each.type_url.rpartition(".")[2]: each.value for each in told.details}
        info = pb.ErrorInfo.FromString(by_name.get("ErrorInfo", b""))
        bad = pb.BadRequest.FromString(by_name.get("BadRequest", b""))
        retry = pb.RetryInfo.FromString(by_name["RetryInfo"]) if "RetryInfo" in by_name else None
    except DecodeError:
        return None
    if info.domain != DOMAIN:
        return None
    return Problem(
        code=told.code,
        message=told.message,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=tuple(FieldViolation(each.field, each.description) for each in bad.field_violations),
        retry_after_seconds=None if retry is None else retry.retry_delay.ToNanoseconds() / 1e9,
    )


def _name(message: Message) -> str:
    return str(message.DESCRIPTOR.name)
