"""The gRPC server: errors, health, reflection, ports."""

from __future__ import annotations

import asyncio
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from milonga.pinning import HUB_NAME
from milonga.status import METADATA_KEY, FieldViolation, Problem, unpack
from milonga.v1 import agent_pb2, agent_pb2_grpc, datasets_pb2_grpc
from milonga_hub import errors
from milonga_hub.jobs import JobError
from milonga_hub.transports.grpc import PortInUse, serve

from tests.certificates import Tls
from tests.devices.world import run

FOLDER = tempfile.TemporaryDirectory()
TLS = Tls(Path(FOLDER.name))
Call = Callable[[grpc.aio.Channel], Awaitable[Any]]


class Failing(agent_pb2_grpc.AgentServiceServicer):
    """Raises the error in every call; Connect as a coroutine, FetchBlob as a generator that first says something."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def Connect(self, request_iterator: Any, context: Any) -> Any:  # type: ignore[override]
        await context.write(agent_pb2.ConnectResponse())
        raise self.error

    async def FetchBlob(self, request: Any, context: Any) -> Any:
        yield agent_pb2.FetchBlobResponse()
        raise self.error


class FailingEnrolment(agent_pb2_grpc.EnrolmentServiceServicer):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def Enrol(self, request: Any, context: Any) -> Any:
        raise self.error


class FailingUpload(datasets_pb2_grpc.DatasetServiceServicer):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def ImportDataset(self, request_iterator: Any, context: Any) -> Any:
        raise self.error


async def _unary_unary(channel: grpc.aio.Channel) -> None:
    await agent_pb2_grpc.EnrolmentServiceStub(channel).Enrol(agent_pb2.EnrolRequest())


async def _unary_stream(channel: grpc.aio.Channel) -> None:
    async for _ in agent_pb2_grpc.AgentServiceStub(channel).FetchBlob(agent_pb2.FetchBlobRequest()):
        pass


async def _stream_unary(channel: grpc.aio.Channel) -> None:
    await datasets_pb2_grpc.DatasetServiceStub(channel).ImportDataset(iter(()))


async def _stream_stream(channel: grpc.aio.Channel) -> None:
    async for _ in agent_pb2_grpc.AgentServiceStub(channel).Connect(iter(())):
        pass


KINDS = [_unary_unary, _unary_stream, _stream_unary, _stream_stream]


@asynccontextmanager
async def _served(error: Exception) -> AsyncIterator[grpc.aio.Channel]:
    servicers = [Failing(error), FailingEnrolment(error), FailingUpload(error)]  # type: ignore[abstract]
    server, port = await serve(servicers, "127.0.0.1", 0, TLS.server(), gate=None)
    try:
        async with TLS.channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def _failure(error: Exception, call: Call) -> grpc.aio.AioRpcError:
    async with _served(error) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(channel)
    return failed.value


@pytest.mark.parametrize("call", KINDS)
def test_a_domain_error_becomes_its_code_and_keeps_its_message(call: Call) -> None:
    failed = run(_failure(errors.NotFound("no device 'käfer'; see: milonga devices list"), call))
    assert failed.code() is grpc.StatusCode.NOT_FOUND
    assert failed.details() == "no device 'käfer'; see: milonga devices list"


@pytest.mark.parametrize("call", KINDS)
def test_an_unexpected_error_is_logged_whole_and_told_as_a_number(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="milonga_hub"):
        failed = run(_failure(ZeroDivisionError("secret detail"), call))
    assert failed.code() is grpc.StatusCode.INTERNAL
    details = failed.details() or ""
    assert "secret detail" not in details
    (record,) = [each for each in caplog.records if each.name.startswith("milonga_hub")]
    number = details.split()[2].rstrip(";")
    assert number in record.getMessage()
    assert record.exc_info is not None
    assert "secret detail" in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.AlreadyExists("x"), grpc.StatusCode.ALREADY_EXISTS),
        (errors.FailedPrecondition("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Unauthenticated("x"), grpc.StatusCode.UNAUTHENTICATED),
        (errors.PermissionDenied("x"), grpc.StatusCode.PERMISSION_DENIED),
        (errors.ResourceExhausted("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (JobError("x"), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_every_domain_error_has_its_code(error: Exception, code: grpc.StatusCode) -> None:
    assert run(_failure(error, _unary_unary)).code() is code


def _told(failed: grpc.aio.AioRpcError) -> Problem:
    problem = unpack(dict(failed.trailing_metadata())[METADATA_KEY])
    assert problem is not None
    return problem


@pytest.mark.parametrize("call", KINDS)
def test_an_error_tells_programs_why(call: Call) -> None:
    violation = FieldViolation("spec.limits[0].latency_ms", "must be above 0")
    told = _told(run(_failure(errors.InvalidInput("latency_ms: must be above 0", (violation,)), call)))
    assert told == Problem(3, "latency_ms: must be above 0", "INVALID_INPUT", {}, (violation,))


def test_who_calls_too_often_is_told_how_long_to_wait() -> None:
    assert _told(run(_failure(errors.TooOften("wait", 7.0), _unary_unary))).retry_after_seconds == 7.0


def test_an_unexpected_error_has_its_number_apart() -> None:
    failed = run(_failure(ZeroDivisionError("secret detail"), _unary_unary))
    told = _told(failed)
    assert told.reason == "INTERNAL" and told.metadata["number"] in (failed.details() or "")


@pytest.mark.parametrize("character", ["ü", "x"])
def test_a_message_too_long_for_a_header_is_cut(character: str) -> None:
    many = tuple(FieldViolation(f"field_{number}", "is wrong") for number in range(1000))
    failed = run(_failure(errors.InvalidInput(character * 100_000, many), _unary_unary))
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert set(failed.details() or "") == {character}
    assert _told(failed) == Problem(3, failed.details() or "", "INVALID_INPUT")


def test_what_says_too_much_keeps_its_message() -> None:
    many = tuple(FieldViolation(f"field_{number}", "is wrong") for number in range(1000))
    told = _told(run(_failure(errors.InvalidInput("1000 fields are wrong", many), _unary_unary)))
    assert told == Problem(3, "1000 fields are wrong", "INVALID_INPUT")


def test_health_answers_for_the_server_and_each_service() -> None:
    async def story() -> None:
        async with _served(errors.NotFound("x")) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "milonga.v1.AgentService", "milonga.v1.DatasetService"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.Check(health_pb2.HealthCheckRequest(service="other"))
            assert failed.value.code() is grpc.StatusCode.NOT_FOUND

    run(story())


def test_reflection_lists_the_services() -> None:
    async def story() -> set[str]:
        async with _served(errors.NotFound("x")) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in stub.ServerReflectionInfo(iter([request])):
                return {service.name for service in answer.list_services_response.service}
        return set()

    assert {"milonga.v1.AgentService", "milonga.v1.DatasetService", "grpc.health.v1.Health"} <= run(story())


def test_an_unknown_method_is_unimplemented() -> None:
    async def story() -> None:
        async with _served(errors.NotFound("x")) as channel:
            dance: Any = channel.unary_unary("/milonga.v1.AgentService/Dance")
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await dance(b"")
            assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(story())


def test_a_port_in_use_is_named_with_the_flag_that_changes_it() -> None:
    async def story() -> None:
        server, port = await serve([], "127.0.0.1", 0, TLS.server(), gate=None)
        try:
            with pytest.raises(PortInUse, match=rf"port {port} .*--grpc-port"):
                await serve([], "127.0.0.1", port, TLS.server(), gate=None)
        finally:
            await server.stop(None)
        again, same = await serve([], "127.0.0.1", port, TLS.server(), gate=None)
        await again.stop(None)
        assert same == port

    run(story())


def test_an_address_of_another_machine_is_named_with_the_flag_that_changes_it() -> None:
    with pytest.raises(errors.InvalidInput, match=r"192\.0\.2\.1.*--host"):
        run(serve([], "192.0.2.1", 0, TLS.server(), gate=None))


def test_agents_may_ping_often() -> None:
    """gRPC's default answers a third ping within five minutes with GOAWAY."""

    async def story() -> None:
        server, port = await serve([], "127.0.0.1", 0, TLS.server(), gate=None)
        context = ssl.create_default_context(cadata=TLS.authority.certificate.decode())
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=HUB_NAME)
        try:
            # RFC 9113: preface, empty SETTINGS, then PING frames (type 6, 8 bytes).
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            pongs = 0
            while pongs < 10:
                writer.write(bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + pongs.to_bytes(8, "big"))
                kind = -1
                while kind != 6:
                    header = await reader.readexactly(9)
                    kind = header[3]
                    assert kind != 7, "GOAWAY"
                    await reader.readexactly(int.from_bytes(header[:3], "big"))
                pongs += 1
        finally:
            writer.close()
            await server.stop(None)

    run(story())
