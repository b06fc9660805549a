"""The one way from the command line to a hub: a channel, its stubs, whole lists, and words for what went wrong."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import grpc
import typer
from milonga import client
from milonga.client import Retries, endpoint, errors
from milonga.client.errors import HubError, NotTrusted, Unreachable, of_call
from milonga.client.trust import NoAddress
from milonga.v1 import (
    accounts_pb2_grpc,
    alerts_pb2_grpc,
    datasets_pb2_grpc,
    devices_pb2_grpc,
    hubs_pb2_grpc,
    labelling_pb2_grpc,
    models_pb2_grpc,
    projects_pb2_grpc,
    rollouts_pb2_grpc,
    telemetry_pb2_grpc,
    webhooks_pb2_grpc,
)

from milonga_hub.cli.failures import FAILED, NOT_FOUND, REFUSED, UNREACHABLE, USAGE, Refused

HUB_VARIABLE = endpoint.ADDRESS_VARIABLE

_EXIT_CODES: dict[type, int] = {
    HubError: FAILED,
    NoAddress: USAGE,
    NotTrusted: REFUSED,
    Unreachable: UNREACHABLE,
    errors.NotFound: NOT_FOUND,
    errors.InvalidInput: REFUSED,
    errors.AlreadyExists: REFUSED,
    errors.FailedPrecondition: REFUSED,
    errors.Unauthenticated: REFUSED,
    errors.PermissionDenied: REFUSED,
    errors.ResourceExhausted: REFUSED,
}
# Far above what any call takes that does not send files; a hub that hangs is told of.
CALL_SECONDS = 60.0
# Somebody looks on: a hub that is started anew is waited for, one that is gone is told of soon.
_RETRIES = Retries(attempts=3, watch_seconds=60.0)

M = TypeVar("M")

_address = endpoint.DEFAULT_ADDRESS


def remember_hub(address: str) -> None:
    """Let all later calls go to this hub."""
    global _address
    _address = address


def _override(address: str | None) -> str | None:
    if address:
        remember_hub(address)
    return address


# Every verb takes both; `--hub` may also stand before the verb.
Hub = Annotated[
    str | None,
    typer.Option(
        "--hub", metavar="HOST:PORT", callback=_override, help=f"The hub's gRPC address [env: {HUB_VARIABLE}]."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with the API's field names.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="How many at most; 0 means all.")]


class Client:
    """Stubs of all services on one channel. Use it in a `with` block."""

    def __init__(self, key: str | None = None) -> None:
        """Calls bear `key`; None takes the one that this machine has for the hub, "" makes a stranger."""
        # Its methods return things; the stubs return answers as they come, which --json prints.
        self.hub = client.Client(_address, key, retries=_RETRIES)
        self.address, self.authority = self.hub.endpoint.address, self.hub.endpoint.authority
        channel = self.hub.channel
        self.accounts = accounts_pb2_grpc.AccountServiceStub(channel)
        self.devices = devices_pb2_grpc.DeviceServiceStub(channel)
        self.datasets = datasets_pb2_grpc.DatasetServiceStub(channel)
        self.projects = projects_pb2_grpc.ProjectServiceStub(channel)
        self.runs = projects_pb2_grpc.RunServiceStub(channel)
        self.models = models_pb2_grpc.ModelServiceStub(channel)
        self.builds = models_pb2_grpc.BuildServiceStub(channel)
        self.rollouts = rollouts_pb2_grpc.RolloutServiceStub(channel)
        self.alerts = alerts_pb2_grpc.AlertServiceStub(channel)
        self.hubs = hubs_pb2_grpc.HubServiceStub(channel)
        self.webhooks = webhooks_pb2_grpc.WebhookServiceStub(channel)
        self.labelling = labelling_pb2_grpc.LabellingServiceStub(channel)
        self.telemetry = telemetry_pb2_grpc.TelemetryServiceStub(channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.hub.close()

    def all(self, call: Any, request: Any, field: str, limit: int = 0) -> Any:
        """Return the list response with the rows of all pages, or of the first `limit` rows."""
        whole: Any = None
        if limit:
            request.page_size = min(limit, 1000)
        while True:
            page = call(request, timeout=CALL_SECONDS)
            if whole is None:
                whole = page
            else:
                getattr(whole, field).extend(getattr(page, field))
                whole.next_page_token = page.next_page_token
            rows = getattr(whole, field)
            if limit and len(rows) >= limit:
                del rows[limit:]
                return whole
            if not page.next_page_token:
                return whole
            request.page_token = page.next_page_token


def explain(error: Exception) -> tuple[str, int]:
    """Return what to tell the user, and the exit code."""
    if isinstance(error, Refused):
        return str(error), error.code
    if isinstance(error, grpc.RpcError):
        error = of_call(error, _address)
    if isinstance(error, HubError):
        return str(error), next(_EXIT_CODES[base] for base in type(error).__mro__ if base in _EXIT_CODES)
    from milonga_hub.errors import MilongaError, NotFound

    if isinstance(error, MilongaError):
        return str(error), NOT_FOUND if isinstance(error, NotFound) else REFUSED
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", FAILED
    return f"unexpected {type(error).__name__}: {error}; please report it with the command that you ran", FAILED


def run_name(text: str) -> str:
    """Return the full name of a run: "digits/1" is short for projects/digits/runs/1."""
    return _full(text, "projects", "runs")


def version_name(text: str) -> str:
    """Return the full name of a model version: "digits/1" is short for models/digits/versions/1."""
    return _full(text, "models", "versions")


def build_name(text: str) -> str:
    """Return the full name of a build: "digits/1/pi5/onnxruntime/int8" is short for
    models/digits/versions/1/builds/pi5:onnxruntime:int8. Raises Refused where the text is neither.
    """
    parts = text.split("/")
    if len(parts) == 5 and parts[1].isdigit():
        return f"models/{parts[0]}/versions/{parts[1]}/builds/{':'.join(parts[2:])}"
    if len(parts) != 6 or parts[4] != "builds":
        raise Refused(
            f"a build is MODEL/NUMBER/TYPE/ENGINE/PRECISION, for example digits/1/raspberry-pi-5/openvino/int8; {text!r} is"
            " not; list builds with: milonga build ls",
            USAGE,
        )
    return text


def _full(text: str, collection: str, items: str) -> str:
    owner, slash, number = text.partition("/")
    return f"{collection}/{owner}/{items}/{number}" if slash and number.isdigit() else text
