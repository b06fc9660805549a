"""The HTTP server: REST and pages on one application; errors become answers here, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import socket
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from milonga.status import FieldViolation
from starlette.exceptions import HTTPException

from milonga_hub.accounts import web as accounts
from milonga_hub.accounts.gate import Gate
from milonga_hub.accounts.owners import Owners
from milonga_hub.accounts.rules_projects import project_of_name
from milonga_hub.alerts import web as alerts
from milonga_hub.builds import web as builds
from milonga_hub.callers import leave_unrecorded, need_project, seen_projects, tell_problem
from milonga_hub.datasets import web as datasets
from milonga_hub.devices import web as devices
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
    QuotaExceeded,
    ResourceExhausted,
    TooOften,
    Unauthenticated,
    complaint,
)
from milonga_hub.fencing import LeadLost
from milonga_hub.hubs import web as hubs
from milonga_hub.install import web as install
from milonga_hub.labelling import web as labelling
from milonga_hub.models import web as models
from milonga_hub.projects import web as projects
from milonga_hub.projects.models import Project
from milonga_hub.rollouts import web as rollouts
from milonga_hub.runs import web as runs
from milonga_hub.runs.models import Run, Trigger
from milonga_hub.telemetry import web as telemetry
from milonga_hub.transports.https import Certificate
from milonga_hub.transports.openapi import describe
from milonga_hub.uploads import Uploads
from milonga_hub.web import metrics, pages, stream
from milonga_hub.web.gate import Gated
from milonga_hub.web.safety import Safety
from milonga_hub.web.services import HubServices
from milonga_hub.web.speaking import Speaking
from milonga_hub.webhooks import web as webhooks

_log = logging.getLogger(__name__)

# Status and the name that gRPC has for the same error.
ANSWERS: dict[type[MilongaError], tuple[int, str]] = {
    InvalidInput: (400, "INVALID_ARGUMENT"),
    NotFound: (404, "NOT_FOUND"),
    AlreadyExists: (409, "ALREADY_EXISTS"),
    FailedPrecondition: (409, "FAILED_PRECONDITION"),
    Unauthenticated: (401, "UNAUTHENTICATED"),
    PermissionDenied: (403, "PERMISSION_DENIED"),
    QuotaExceeded: (429, "RESOURCE_EXHAUSTED"),
    TooOften: (429, "RESOURCE_EXHAUSTED"),
    ResourceExhausted: (507, "RESOURCE_EXHAUSTED"),
    BlobDamaged: (409, "FAILED_PRECONDITION"),
    BlobsUnreachable: (503, "UNAVAILABLE"),
    DatabaseUnreachable: (503, "UNAVAILABLE"),
    LeadLost: (503, "UNAVAILABLE"),
    MilongaError: (409, "FAILED_PRECONDITION"),
}
# Streams of events end at once when the server stops; this is for uploads under way.
_GRACE_SECONDS = 2
# A database that takes longer serves nobody.
_READY_SECONDS = 5.0


_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Send requests elsewhere; `status` says why."}}


class PortInUse(FailedPrecondition):
    """Another program listens there."""


def create_app(hub: HubServices) -> FastAPI:
    """Return the application of one hub."""
    app = FastAPI(title="Milonga", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    describe(app)
    app.state.stopping = asyncio.Event()
    app.include_router(_api(hub), prefix="/api/v1")
    app.include_router(stream.router(hub.events, app.state.stopping), prefix="/api/v1")

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Say that the process answers; for what starts it anew where it does not."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses=_NOT_READY)
    async def readyz() -> JSONResponse:
        """Say whether requests should come here: 503 while the hub stops, or where its database does not answer.

        `leads` says whether this hub does what one hub does for all, `blobs` what is wrong with the store of blobs where it does
        not answer.
        """
        if app.state.stopping.is_set():
            return JSONResponse({"status": "stopping"}, 503)
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await asyncio.to_thread(hub.devices.types, page_size=1)
        except Exception as error:  # Whatever it is, it is no reason to send requests here.
            _log.warning("the database does not answer: %r", error)
            return JSONResponse({"status": "the database does not answer"}, 503)
        # Without blobs devices go on and are heard, so that requests come here all the same; whoever reads this is told.
        problem = await asyncio.to_thread(hub.blob_watch.problem)
        return JSONResponse({"status": "ready", "leads": hub.hubs.leads, **({"blobs": problem} if problem else {})})

    app.include_router(
        install.router(hub.settings.data_dir / "wheelhouses", lambda: hub.grpc_port), include_in_schema=False
    )
    app.include_router(metrics.router(hub), include_in_schema=False)
    pages.mount(app, hub)
    app.add_exception_handler(MilongaError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_such_thing)
    app.add_middleware(Gated, gate=Gate(hub.accounts, Owners(hub.projects, hub.rollouts, hub.alerts)), refuse=_refused)
    app.add_middleware(Speaking)
    app.add_middleware(Safety, host=hub.settings.host, names=hub.settings.server_names)
    app.add_middleware(metrics.Counting)
    return app


def _api(hub: HubServices) -> APIRouter:
    def start(project: str, reason: str, request_id: str) -> Run:
        return hub.runs.start(project, Trigger.APPLY, reason, request_id)

    def project_of(model_version: str) -> Project:
        if seen_projects() is not None:
            need_project(project_of_name(model_version))
        return hub.projects.get(hub.models.get_version(model_version).run.split("/")[1])

    uploads = Uploads(hub.own_folder / "uploads-http", hub.settings.max_upload_bytes)
    api = APIRouter()
    for router in (
        devices.router(hub.devices),
        datasets.router(hub.datasets, uploads, hub.events),
        projects.router(hub.projects, start, hub.quotas.usage, hub.triggers.due_run),
        runs.router(hub.runs),
        models.router(
            hub.models,
            hub.imports,
            Uploads(hub.own_folder / "uploads-models-http", hub.settings.max_upload_bytes, "file", ""),
        ),
        builds.router(hub.builds),
        rollouts.router(hub.rollouts, project_of),
        telemetry.router(hub.telemetry),
        alerts.router(hub.alerts),
        labelling.router(hub.labelling),
        accounts.router(hub.accounts),
        webhooks.router(hub.webhooks),
        hubs.router(hub.hubs),
    ):
        api.include_router(router)
    return api


async def _refused(request: Request, error: Exception) -> Response:
    status, code = next(ANSWERS[base] for base in type(error).__mro__ if base in ANSWERS)
    tell_problem(f"{code}: {error}")
    if isinstance(error, TooOften):
        leave_unrecorded()
    assert isinstance(error, MilongaError)
    return _answer(request, status, code, str(error), error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    violations = tuple(
        FieldViolation(".".join(str(part) for part in each["loc"]), complaint(each)) for each in error.errors()
    )
    words = "; ".join(f"{each.field}: {each.description}" for each in violations)
    return await _refused(request, InvalidInput(words, violations))


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}
    messages = {404: f"there is nothing at {request.url.path}; see /api/docs"}
    message = messages.get(error.status_code, str(error.detail))
    return _answer(request, error.status_code, codes.get(error.status_code, "UNKNOWN"), message)


def _answer(request: Request, status: int, code: str, message: str, error: MilongaError | None = None) -> Response:
    """Programs get JSON, people a page."""
    waits = None if error is None else error.retry_after_seconds
    headers = {} if waits is None else {"Retry-After": str(math.ceil(waits))}
    if request.url.path.startswith("/api/"):
        # The same words as over gRPC: see milonga.status.
        told = {"code": code, "message": message, "reason": code if error is None else error.reason}
        violations = [] if error is None else [asdict(each) for each in error.violations]
        return JSONResponse({"error": {**told, **({"violations": violations} if violations else {})}}, status, headers)
    page = pages.error_page(request, status, message)
    page.headers.update(headers)
    return page


class RunningServer:
    """A server that listens; `await stop()` ends it."""

    def __init__(self, server: _Server, task: asyncio.Task[None], stopping: asyncio.Event) -> None:
        self._server = server
        self._task = task
        self._stopping = stopping

    async def stop(self) -> None:
        self._stopping.set()
        self._server.should_exit = True
        await self._task


class _Server(uvicorn.Server):
    """Uvicorn in a loop that has other work: signals are the hub's business."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


async def serve(
    app: FastAPI, host: str, port: int, certificate: Certificate | None = None
) -> tuple[RunningServer, int]:
    """Start serving and return the server and its port (a free one for port 0); with a certificate, over TLS alone.

    Raises PortInUse, or InvalidInput where the host is not an address of this machine.
    """
    listening = _listen(host, port)
    # Its lines go where all others go, in their form.
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    if certificate is not None:
        config.load()
        config.ssl = certificate.context
    server = _Server(config)
    task = asyncio.create_task(server.serve([listening]), name="http server")
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if task.done():
        task.result()
    stopping: Any = app.state.stopping
    return RunningServer(server, task, stopping), int(listening.getsockname()[1])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InvalidInput(f"cannot listen on {host}: {error.strerror}; choose another with --host") from error
    listening = socket.socket(family, kind, protocol)
    try:
        # A hub that restarts takes its port back at once; on Linux this shares no port with another listener.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # A port that is bound but does not listen would be shared with whoever listens first.
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} for HTTP is in use; choose another with --http-port") from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidInput(f"cannot listen on {host}: {error.strerror}; choose another with --host") from error
        raise PortInUse(f"port {port} for HTTP: {error.strerror}; choose another with --http-port") from error
    return listening
