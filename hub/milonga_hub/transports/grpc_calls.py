"""What a gRPC call says of itself, and what errors are called there."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import grpc

from milonga_hub.errors import (
    AlreadyExists,
    BlobDamaged,
    BlobsUnreachable,
    DatabaseUnreachable,
    FailedPrecondition,
    InvalidInput,
    MilongaError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from milonga_hub.fencing import LeadLost

CODES: dict[type[MilongaError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BlobDamaged: grpc.StatusCode.FAILED_PRECONDITION,
    BlobsUnreachable: grpc.StatusCode.UNAVAILABLE,
    DatabaseUnreachable: grpc.StatusCode.UNAVAILABLE,
    LeadLost: grpc.StatusCode.UNAVAILABLE,
    MilongaError: grpc.StatusCode.FAILED_PRECONDITION,
}


def address_of(context: Any) -> str:
    """Return where the call came from: "192.0.2.7:5000"."""
    return unquote(str(context.peer()).removeprefix("ipv4:").removeprefix("ipv6:"))


def host_of(context: Any) -> str:
    """Return the address without its port: "192.0.2.7"."""
    return address_of(context).rpartition(":")[0].strip("[]")


def code_of(error: MilongaError) -> grpc.StatusCode:
    """Return the status code of the error, or of its nearest base."""
    return next(CODES[base] for base in type(error).__mro__ if base in CODES)
