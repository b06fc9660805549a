"""The gRPC server: every call goes through the gate, and every error through one table."""

from __future__ import annotations

import errno
import inspect
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from milonga_hub import counts, tracing
from milonga_hub.accounts.gate import Gate
from milonga_hub.authority import ServerIdentity
from milonga_hub.errors import FailedPrecondition, InvalidInput, MilongaError, Unauthenticated
from milonga_hub.transports.grpc_door import Door
from milonga_hub.transports.grpc_errors import abort

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

OPTIONS: list[tuple[str, Any]] = [
    # A second hub on the same port must fail, not share its calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Agents behind NAT ping every half minute; gRPC's default answers pings under 300 s with GOAWAY.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Find dead peers within 40 s, the time of four heartbeats.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


class PortInUse(FailedPrecondition):
    """Another program listens there."""


async def serve(
    servicers: Sequence[Any],
    host: str,
    port: int,
    credentials: grpc.ServerCredentials,
    option: str = "--grpc-port",
    *,
    gate: Gate | None,
) -> tuple[grpc.aio.Server, int]:
    """Start a server with the servicers, health and reflection; return it and its port (a free one for port 0).

    `gate` decides who may call what; None is for servicers that look at the client's certificate themselves. `option` is what changes the port on the command line. Raises PortInUse, or InvalidInput where the host is not an address of this machine.
    """
    server = grpc.aio.server(interceptors=[ErrorMapping(gate)], options=OPTIONS)
    names = [_register(servicer, server) for servicer in servicers]
    await _register_health(names, server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    address = f"[{host}]" if ":" in host else host
    try:
        bound_port = server.add_secure_port(f"{address}:{port}", credentials)
    except RuntimeError as error:
        raise _why_not(host, port, option) from error
    await server.start()
    return server, bound_port


def server_credentials(identity: ServerIdentity, *, devices_only: bool = False) -> grpc.ServerCredentials:
    """Return what a server shows; with `devices_only` it lets in nobody without a certificate of the hub's authority."""
    return grpc.ssl_server_credentials(
        [(identity.key, identity.chain)],
        root_certificates=identity.authority if devices_only else None,
        require_client_auth=devices_only,
    )


def client_certificate(context: Any) -> bytes:
    """Return the certificate (PEM) that TLS has checked. Raises Unauthenticated where the call came without one."""
    certificates = context.auth_context().get("x509_pem_cert")
    if not certificates:
        raise Unauthenticated("the call came without a client certificate; enrol first, and call the hub's device port")
    return bytes(certificates[0])


class ErrorMapping(grpc.aio.ServerInterceptor):
    """Lets calls through the gate, and turns domain errors into status codes with their message; of anything else the
    caller learns only a number.
    """

    def __init__(self, gate: Gate | None) -> None:
        self._gate = gate

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method
        kinds = {
            (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
            (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
            (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
            (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
        }
        attribute, make = kinds[handler.request_streaming, handler.response_streaming]
        door = Door(self._gate, method, lasts=handler.response_streaming)
        behaviour = _guarded(getattr(handler, attribute), method, door, self._gate)
        return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _guarded(behaviour: Any, method: str, door: Door, gate: Gate | None) -> Any:
    if inspect.isasyncgenfunction(behaviour):

        async def generate(request: Any, context: Any) -> Any:
            try:
                async with door.passed(request, context):
                    async for response in behaviour(request, context):
                        yield response
                counts.grpc_calls[method, "OK"] += 1
            except Exception as error:
                await abort(error, method, request, context)

        return generate
    if not inspect.iscoroutinefunction(behaviour):
        door.check_open()
        return behaviour  # Only gRPC's own services are not async.
    service, _, name = method.removeprefix("/").partition("/")
    described = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

    async def call(request: Any, context: Any) -> Any:
        # Streams last for days: a span that ends with them would tell nothing.
        if door.lasts or not tracing.is_on():
            return await answered(request, context)
        headers = context.invocation_metadata() or ()
        with tracing.answering(method.removeprefix("/"), headers, **described) as span:
            try:
                return await answered(request, context)
            finally:
                code = context.code()
                span.set_attribute(
                    "rpc.grpc.status_code", code.value[0] if isinstance(code, grpc.StatusCode) else code or 0
                )

    async def answered(request: Any, context: Any) -> Any:
        try:
            if gate is None:
                answer = await behaviour(request, context)
            else:
                async with door.passed(request, context):
                    answer = await door.while_valid(behaviour(request, context), context)
        except Exception as error:
            return await abort(error, method, request, context)
        counts.grpc_calls[method, "OK"] += 1
        return answer

    return call


def _register(servicer: Any, server: grpc.aio.Server) -> str:
    """Add the servicer to the server by what protoc generated for it, and return its service's full name."""
    base = next(each for each in type(servicer).__mro__ if each.__module__.endswith("_pb2_grpc"))
    generated = sys.modules[base.__module__]
    getattr(generated, f"add_{base.__name__}_to_server")(servicer, server)
    messages = sys.modules[base.__module__.removesuffix("_grpc")]
    return str(messages.DESCRIPTOR.services_by_name[base.__name__.removesuffix("Servicer")].full_name)


async def _register_health(names: Sequence[str], server: grpc.aio.Server) -> None:
    servicer = health.aio.HealthServicer()
    for name in ("", *names):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


def _why_not(host: str, port: int, option: str) -> MilongaError:
    """Find out with a plain socket why gRPC could not listen; it does not say."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError as error:
        if not isinstance(error, socket.gaierror) and error.errno != errno.EADDRNOTAVAIL:
            return PortInUse(f"port {port} for gRPC: {error.strerror}; choose another with {option}")
        return InvalidInput(f"cannot listen on {host}: {error.strerror}; choose another with --host")
    return PortInUse(f"port {port} for gRPC is in use; choose another with {option}")
