"""A typed client of Milonga's hub: paging, retries and watching are built in.

    from milonga.client import Client

    with Client() as hub:
        for run in hub.runs.list_runs(project="digits"):
            print(run.name, run.outcome)

`AsyncClient` is the same for asyncio. Messages are those of `milonga.v1`.
"""

from milonga.client.client import AsyncClient, Client
from milonga.client.errors import (
    AlreadyExists,
    CallFailed,
    DeadlineExceeded,
    FailedPrecondition,
    HubError,
    Internal,
    InvalidInput,
    NotFound,
    NotTrusted,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unimplemented,
    Unreachable,
)
from milonga.client.retries import Retries

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "CallFailed",
    "Client",
    "DeadlineExceeded",
    "FailedPrecondition",
    "HubError",
    "Internal",
    "InvalidInput",
    "NotFound",
    "NotTrusted",
    "PermissionDenied",
    "ResourceExhausted",
    "Retries",
    "Unauthenticated",
    "Unimplemented",
    "Unreachable",
]
