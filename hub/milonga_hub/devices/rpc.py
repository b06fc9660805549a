"""Devices over gRPC: for people and programs (DeviceRpc), and for the agents themselves (AgentRpc)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import grpc
from milonga.deltas import FORMAT
from milonga.v1 import agent_pb2, agent_pb2_grpc, common_pb2, devices_pb2, devices_pb2_grpc

from milonga_hub import counts
from milonga_hub.authority import presented
from milonga_hub.bridge import from_proto, to_proto
from milonga_hub.db import utc_now
from milonga_hub.devices.models import Assignment, Device, DeviceBuild, File, Inventory, StepLog
from milonga_hub.devices.rules import NAME_LENGTH
from milonga_hub.devices.rules_neighbours import Cache
from milonga_hub.devices.selectors import parse
from milonga_hub.devices.service import DeviceService, Enrolment
from milonga_hub.devices.streams import DeviceStream, Outgoing
from milonga_hub.devices.transferred import believed
from milonga_hub.devices.values import (
    AgentSettings,
    AgentStatus,
    CacheKey,
    Care,
    Download,
    Hello,
    HelpAnswer,
    HelpTask,
    MeasurementResult,
    MeasurementTask,
    NewAssignment,
    NewCertificate,
    Passed,
    Profile,
    SamplingPolicy,
    TimingResult,
    TimingTask,
)
from milonga_hub.devices.writing import Writing
from milonga_hub.errors import InvalidInput, MilongaError, NotFound, PermissionDenied, Unauthenticated
from milonga_hub.events import EventBus
from milonga_hub.transfers.rules import Listed
from milonga_hub.transfers.service import Chunks, TransferService
from milonga_hub.transports.grpc import client_certificate
from milonga_hub.transports.grpc_calls import address_of, host_of

_log = logging.getLogger(__name__)

# An inventory has a few kilobytes, and strangers may send one.
_MAX_ENROLMENT_BYTES = 64 * 1024
# Of a status; longer ones are of trouble, and each device has its own.
_MOST_SHARED_BYTES = 512


class DeviceRpc(devices_pb2_grpc.DeviceServiceServicer):
    """DeviceService of devices.proto."""

    def __init__(self, devices: DeviceService, events: EventBus) -> None:
        self._devices = devices
        self._events = events

    async def CreateJoinToken(
        self, request: devices_pb2.CreateJoinTokenRequest, context: Any
    ) -> devices_pb2.CreateJoinTokenResponse:
        token, secret = self._devices.create_join_token(
            dict(request.labels), request.uses, request.lifetime_seconds, request.request_id
        )
        return devices_pb2.CreateJoinTokenResponse(join_token=to_proto(token, devices_pb2.JoinToken), secret=secret)

    async def ListJoinTokens(
        self, request: devices_pb2.ListJoinTokensRequest, context: Any
    ) -> devices_pb2.ListJoinTokensResponse:
        tokens, following = self._devices.list_join_tokens(request.page_size, request.page_token)
        return devices_pb2.ListJoinTokensResponse(
            join_tokens=[to_proto(token, devices_pb2.JoinToken) for token in tokens], next_page_token=following
        )

    async def GetDevice(self, request: devices_pb2.GetDeviceRequest, context: Any) -> devices_pb2.GetDeviceResponse:
        return devices_pb2.GetDeviceResponse(device=self._message(self._devices.get(request.name)))

    async def ListDevices(
        self, request: devices_pb2.ListDevicesRequest, context: Any
    ) -> devices_pb2.ListDevicesResponse:
        devices, following = self._devices.list(request.selector, request.page_size, request.page_token)
        return devices_pb2.ListDevicesResponse(
            devices=[self._message(device) for device in devices], next_page_token=following
        )

    async def UpdateDevice(
        self, request: devices_pb2.UpdateDeviceRequest, context: Any
    ) -> devices_pb2.UpdateDeviceResponse:
        device = self._devices.update_labels(request.name, dict(request.labels), request.request_id)
        return devices_pb2.UpdateDeviceResponse(device=self._message(device))

    async def DeleteDevice(
        self, request: devices_pb2.DeleteDeviceRequest, context: Any
    ) -> devices_pb2.DeleteDeviceResponse:
        self._devices.delete(request.name)
        return devices_pb2.DeleteDeviceResponse()

    async def RevokeDevice(
        self, request: devices_pb2.RevokeDeviceRequest, context: Any
    ) -> devices_pb2.RevokeDeviceResponse:
        return devices_pb2.RevokeDeviceResponse(device=self._message(self._devices.revoke(request.name)))

    async def ListJoinRequests(
        self, request: devices_pb2.ListJoinRequestsRequest, context: Any
    ) -> devices_pb2.ListJoinRequestsResponse:
        found, following = self._devices.join_requests(request.page_size, request.page_token)
        return devices_pb2.ListJoinRequestsResponse(
            join_requests=[to_proto(each, devices_pb2.JoinRequest) for each in found], next_page_token=following
        )

    async def ApproveJoinRequest(
        self, request: devices_pb2.ApproveJoinRequestRequest, context: Any
    ) -> devices_pb2.ApproveJoinRequestResponse:
        approved = self._devices.approve(request.id)
        return devices_pb2.ApproveJoinRequestResponse(join_request=to_proto(approved, devices_pb2.JoinRequest))

    async def RefuseJoinRequest(
        self, request: devices_pb2.RefuseJoinRequestRequest, context: Any
    ) -> devices_pb2.RefuseJoinRequestResponse:
        refused = self._devices.refuse(request.id)
        return devices_pb2.RefuseJoinRequestResponse(join_request=to_proto(refused, devices_pb2.JoinRequest))

    async def WatchDevices(self, request: devices_pb2.WatchDevicesRequest, context: Any) -> None:  # type: ignore[override]
        """Send all devices that match now, and each again whenever it changes."""
        wanted = parse(request.selector)
        with self._events.listen("devices/") as changes:
            for device in self._devices.matching(request.selector):
                await context.write(devices_pb2.WatchDevicesResponse(device=self._message(device)))
            async for change in changes:
                try:
                    device = self._devices.get(change.topic)
                except NotFound:
                    continue  # It was deleted.
                if wanted.matches(self._devices.attributes(device)):
                    await context.write(devices_pb2.WatchDevicesResponse(device=self._message(device)))

    async def ListDeviceTypes(
        self, request: devices_pb2.ListDeviceTypesRequest, context: Any
    ) -> devices_pb2.ListDeviceTypesResponse:
        types, following = self._devices.types(request.page_size, request.page_token)
        return devices_pb2.ListDeviceTypesResponse(
            device_types=[to_proto(each, devices_pb2.DeviceType) for each in types], next_page_token=following
        )

    async def ListMeasurements(
        self, request: devices_pb2.ListMeasurementsRequest, context: Any
    ) -> devices_pb2.ListMeasurementsResponse:
        found, following = self._devices.measurements(
            request.device_type, request.run, request.page_size, request.page_token
        )
        return devices_pb2.ListMeasurementsResponse(
            measurements=[to_proto(each, devices_pb2.Measurement) for each in found], next_page_token=following
        )

    async def GetDeviceLog(
        self, request: devices_pb2.GetDeviceLogRequest, context: Any
    ) -> devices_pb2.GetDeviceLogResponse:
        answer = await self._devices.log(request.name, request.cursor, request.max_bytes)
        return devices_pb2.GetDeviceLogResponse(text=answer.content.decode("utf-8", "replace"), cursor=answer.cursor)

    async def DiagnoseDevice(
        self, request: devices_pb2.DiagnoseDeviceRequest, context: Any
    ) -> devices_pb2.DiagnoseDeviceResponse:
        return devices_pb2.DiagnoseDeviceResponse(content=await self._devices.diagnose(request.name))

    async def RestartDevice(
        self, request: devices_pb2.RestartDeviceRequest, context: Any
    ) -> devices_pb2.RestartDeviceResponse:
        return devices_pb2.RestartDeviceResponse(device=self._message(self._devices.restart(request.name)))

    async def ProfileDevice(
        self, request: devices_pb2.ProfileDeviceRequest, context: Any
    ) -> devices_pb2.ProfileDeviceResponse:
        return devices_pb2.ProfileDeviceResponse(device=self._message(self._devices.profile(request.name)))

    async def UpgradeDevice(
        self, request: devices_pb2.UpgradeDeviceRequest, context: Any
    ) -> devices_pb2.UpgradeDeviceResponse:
        device = await asyncio.to_thread(self._devices.upgrade, request.name)
        return devices_pb2.UpgradeDeviceResponse(device=self._message(device))

    async def PinDevice(self, request: devices_pb2.PinDeviceRequest, context: Any) -> devices_pb2.PinDeviceResponse:
        version = request.model_version
        device = self._devices.pin(request.name, version) if version else self._devices.unpin(request.name)
        return devices_pb2.PinDeviceResponse(device=self._message(device))

    async def ListDeviceSteps(
        self, request: devices_pb2.ListDeviceStepsRequest, context: Any
    ) -> devices_pb2.ListDeviceStepsResponse:
        found, following = self._devices.step_log(
            request.device, request.generation, request.page_size, request.page_token
        )
        return devices_pb2.ListDeviceStepsResponse(
            steps=[to_proto(each, devices_pb2.DeviceStep) for each in found], next_page_token=following
        )

    async def GetDeviceTransfers(
        self, request: devices_pb2.GetDeviceTransfersRequest, context: Any
    ) -> devices_pb2.GetDeviceTransfersResponse:
        found = self._devices.transfers(request.name)
        return devices_pb2.GetDeviceTransfersResponse(transfers=to_proto(found, devices_pb2.DeviceTransfers))

    async def ListDeviceBuilds(
        self, request: devices_pb2.ListDeviceBuildsRequest, context: Any
    ) -> devices_pb2.ListDeviceBuildsResponse:
        found, following = self._devices.device_builds(
            request.device, request.bundle, request.page_size, request.page_token
        )
        return devices_pb2.ListDeviceBuildsResponse(
            device_builds=[to_proto(each, devices_pb2.DeviceBuild) for each in found], next_page_token=following
        )

    def _message(self, device: Device) -> devices_pb2.Device:
        return to_proto(self._devices.seen(device), devices_pb2.Device)


class _Received:
    """What a call receives, message by message. gRPC's own iterator keeps each until the next one comes, for hours."""

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def __aiter__(self) -> _Received:
        return self

    async def __anext__(self) -> agent_pb2.ConnectRequest:
        message: Any = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        assert isinstance(message, agent_pb2.ConnectRequest)
        return message


@dataclass(frozen=True)
class DeviceAddress:
    """Where enrolled devices find the hub; an empty host stands for the one that they asked at."""

    device_port: int
    mqtt_host: str
    mqtt_port: int


class EnrolmentRpc(agent_pb2_grpc.EnrolmentServiceServicer):
    """EnrolmentService of agent.proto, for machines that have no certificate."""

    def __init__(self, devices: DeviceService, address: Callable[[], DeviceAddress]) -> None:
        self._devices = devices
        self._address = address

    async def Enrol(self, request: agent_pb2.EnrolRequest, context: Any) -> agent_pb2.EnrolResponse:
        peer = address_of(context)
        try:
            return await self._enrolled(request, peer)
        except MilongaError as error:
            _log.warning("refused %s, who wants to be %r: %s", peer, request.device[:NAME_LENGTH], error)
            raise

    async def GetTime(self, request: agent_pb2.GetTimeRequest, context: Any) -> agent_pb2.GetTimeResponse:
        answer = agent_pb2.GetTimeResponse()
        answer.now.FromDatetime(utc_now())
        return answer

    async def _enrolled(self, request: agent_pb2.EnrolRequest, peer: str) -> agent_pb2.EnrolResponse:
        if request.ByteSize() > _MAX_ENROLMENT_BYTES:
            raise InvalidInput(f"the request to enrol has {request.ByteSize()} bytes, more than {_MAX_ENROLMENT_BYTES}")
        identity = await self._devices.join(
            Enrolment(
                join_token=request.join_token,
                device=request.device,
                inventory=from_proto(request.inventory, Inventory),
                agent_version=request.agent_version,
                simulated=request.simulated,
                labels=dict(request.labels),
                certificate_request=request.certificate_request,
                address=peer,
            )
        )
        address = self._address()
        return agent_pb2.EnrolResponse(
            device=identity.device,
            device_type=identity.device_type,
            certificate=identity.certificate,
            key_fingerprint=identity.key_fingerprint,
            device_port=address.device_port,
            mqtt_host=address.mqtt_host,
            mqtt_port=address.mqtt_port,
        )


class SignedMetadata(Protocol):
    """What agents need of SigningService."""

    def metadata(self, name: str) -> bytes: ...


class Samples(Protocol):
    """What agents need of labelling/rpc.py's SampleReceiver."""

    def greet(self, device: str) -> SamplingPolicy: ...

    def offer(self, device: str, request: agent_pb2.OfferSamplesRequest) -> agent_pb2.OfferSamplesResponse: ...

    async def receive(
        self, device: Device, requests: AsyncIterator[agent_pb2.UploadSamplesRequest]
    ) -> agent_pb2.UploadSamplesResponse: ...


class AgentRpc(agent_pb2_grpc.AgentServiceServicer):
    """AgentService of agent.proto, on a port that lets in only who has a certificate of the hub's authority."""

    def __init__(
        self,
        devices: DeviceService,
        transfers: TransferService,
        signing: SignedMetadata,
        samples: Samples | None = None,
    ) -> None:
        """Without `samples` the hub takes no pictures, and says nothing of them."""
        self._samples = samples
        self._devices = devices
        self._transfers = transfers
        self._signing = signing

    async def Connect(self, request_iterator: AsyncIterator[agent_pb2.ConnectRequest], context: Any) -> None:  # type: ignore[override]
        device = self._authenticated(context).name
        requests = _Received(context)
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidInput("the first message of Connect must be a Hello")
        hello = from_proto(first.hello, Hello)
        hello.status = _status(first.hello.status.SerializeToString())
        # A stream may be open for weeks, and an inventory is long.
        del first
        stream = await self._devices.connections.connect(device, hello)
        del hello
        if self._samples is not None:
            stream.send("sampling", self._samples.greet(device))
        writing = Writing(stream, lambda message: context.write(_outgoing(message)))
        try:
            await self._read(stream, host_of(context), requests)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if writing.problem is None or task is None or task.uncancel():
                raise  # The device went, or the hub stops.
        finally:
            await writing.stop()
            await self._devices.connections.disconnect(stream)
        if writing.problem is not None:
            raise writing.problem

    async def FetchBlob(self, request: agent_pb2.FetchBlobRequest, context: Any) -> None:  # type: ignore[override]
        device = self._authenticated(context).name
        self._demand_may_fetch(device, request.digest)
        pieces = self._transfers.pieces(
            device, request.digest, request.offset_bytes, request.length_bytes, request.piece_bytes
        )
        async for piece in pieces:
            if self._devices.is_shut_out(device):
                raise Unauthenticated(f"device {device} was shut out by an operator")
            await context.write(agent_pb2.FetchBlobResponse(chunk=piece))
            counts.blob_bytes["hub"] += len(piece)

    async def OfferBlob(self, request: agent_pb2.OfferBlobRequest, context: Any) -> agent_pb2.OfferBlobResponse:
        asking = self._authenticated(context)
        device = asking.name
        self._demand_may_fetch(device, request.digest)
        path, held = self._devices.known_to(device, request.digest, request.held_bundles)
        offer = await self._transfers.offer(Listed(path, request.digest, 0), held, request.delta_formats)
        answer = agent_pb2.OfferBlobResponse(chunks=_chunks(offer.chunks))
        if offer.delta is not None and offer.delta_chunks is not None:
            answer.delta.digest, answer.delta.base, answer.delta.format = offer.delta.digest, offer.delta.base, FORMAT
            answer.delta.chunks.CopyFrom(_chunks(offer.delta_chunks))
        # Last: whoever waited for a delta to be made may be shut out by now.
        if not self._devices.is_shut_out(device):
            near = self._devices.caches.near(asking, host_of(context), request.digest)
            answer.neighbours.extend(agent_pb2.Neighbour(**each._asdict()) for each in near)
        return answer

    def _demand_may_fetch(self, device: str, digest: str) -> None:
        # A delta may be had by who may have what it makes.
        if not self._devices.may_fetch(device, self._transfers.wanted_by(digest)):
            raise PermissionDenied(f"{digest!r} is not a file that {device} is assigned or asked to measure")

    async def FetchMetadata(
        self, request: agent_pb2.FetchMetadataRequest, context: Any
    ) -> agent_pb2.FetchMetadataResponse:
        self._authenticated(context)
        content = await asyncio.to_thread(self._signing.metadata, request.name)
        return agent_pb2.FetchMetadataResponse(content=content)

    async def OfferSamples(
        self, request: agent_pb2.OfferSamplesRequest, context: Any
    ) -> agent_pb2.OfferSamplesResponse:
        device = self._authenticated(context).name
        return await asyncio.to_thread(self._taking().offer, device, request)

    async def UploadSamples(
        self, request_iterator: AsyncIterator[agent_pb2.UploadSamplesRequest], context: Any
    ) -> agent_pb2.UploadSamplesResponse:
        return await self._taking().receive(self._authenticated(context), request_iterator)

    def _taking(self) -> Samples:
        if self._samples is None:
            raise PermissionDenied("this hub takes no pictures")
        return self._samples

    def _authenticated(self, context: Any) -> Device:
        try:
            return self._devices.authenticate(presented(client_certificate(context)))
        except Unauthenticated as error:
            _log.warning("refused %s: %s", address_of(context), error)
            raise

    async def _read(self, stream: DeviceStream, host: str, requests: AsyncIterator[agent_pb2.ConnectRequest]) -> None:
        device, connections = stream.device, self._devices.connections
        async for request in requests:
            match request.WhichOneof("message"):
                case "heartbeat":
                    beat = request.heartbeat
                    await connections.beat(device, _status(beat.status.SerializeToString()), _sent_at(beat))
                case "step":
                    if (step := _step(device, request.step)) is not None:
                        await connections.report(step, self._download(device, request.step))
                case "measurement" | "tuning_result" | "help_answer":
                    slot = _slot_of(request)
                    if not self._devices.answered_elsewhere(device, slot, request.SerializeToString()):
                        take_answer(self._devices, device, request)
                case "certificate_request":
                    self._devices.renew(device, request.certificate_request.certificate_request)
                case "device_build":
                    self._devices.connections.built(_device_build(device, request.device_build))
                case "profile":
                    self._devices.connections.profiled(device, from_proto(request.profile, Profile))
                case "cache":
                    told = Cache(tuple(request.cache.addresses), request.cache.certificate_sha256)
                    self._devices.caches.told(stream, self._devices.get(device).labels, host, told)
                case "hello":
                    raise InvalidInput("only the first message of Connect may be a Hello")
                case _:
                    pass  # Of a newer agent.
            # It would stay until the next one comes.
            del request

    def _download(self, device: str, report: agent_pb2.StepReport) -> Download | None:
        """Return what a download moved that has succeeded, and count what of it came from neighbours.

        The device is believed no more than what it is assigned. Older agents tell what neighbours sent alone.
        """
        if report.neighbour_bytes <= 0 and not report.HasField("moved_bytes"):
            return None
        assignment = self._devices.assignment(device)
        most = sum(file.size_bytes for file in assignment.files) if assignment is not None else 0
        counts.blob_bytes["neighbours"] += min(max(0, report.neighbour_bytes), most)
        if assignment is None or assignment.generation != report.generation or not report.HasField("moved_bytes"):
            return None
        return believed(assignment.project, most, report.moved_bytes, report.neighbours)


def take_answer(devices: DeviceService, device: str, request: agent_pb2.ConnectRequest) -> None:
    """Take what a device answers to what it was asked; on the event loop."""
    match request.WhichOneof("message"):
        case "measurement":
            devices.connections.measured(device, from_proto(request.measurement, MeasurementResult))
        case "tuning_result":
            devices.connections.timed(device, from_proto(request.tuning_result, TimingResult))
        case "help_answer":
            devices.connections.helped(device, from_proto(request.help_answer, HelpAnswer))


def encoded(message: Outgoing) -> tuple[bytes, set[str]]:
    """Return a message as a device gets it, and the digests of the files that it fetches for it."""
    files: Sequence[File] = ()
    if isinstance(message, MeasurementTask):
        files = message.item.files
    elif isinstance(message, TimingTask):
        files = (message.item.session, message.item.kernels)
    return _outgoing(message).SerializeToString(), {file.digest for file in files}


def _status(told: bytes) -> AgentStatus:
    """Return what an agent says of itself. Most of a fleet says the same, again and again: then it is the same object."""
    return _known_status(told) if len(told) <= _MOST_SHARED_BYTES else _status_of(told)


def _status_of(told: bytes) -> AgentStatus:
    return from_proto(agent_pb2.AgentStatus.FromString(told), AgentStatus)


_known_status = lru_cache(maxsize=4096)(_status_of)


def _sent_at(beat: agent_pb2.Heartbeat) -> float | None:
    """Return Unix time by the device's clock, which may be any; None from agents that do not tell."""
    return beat.sent_at.seconds + beat.sent_at.nanos * 1e-9 if beat.HasField("sent_at") else None


def _slot_of(request: agent_pb2.ConnectRequest) -> str:
    """Return where the question waited that this answers."""
    match request.WhichOneof("message"):
        case "measurement":
            return f"measurement/{request.measurement.id}"
        case "tuning_result":
            return f"timing/{request.tuning_result.id}"
        case _:
            return f"help/{request.help_answer.id}"


def _chunks(chunks: Chunks) -> agent_pb2.Chunks:
    return agent_pb2.Chunks(size_bytes=chunks.size_bytes, chunk_bytes=chunks.chunk_bytes, digests=chunks.digests)


def _step(device: str, report: agent_pb2.StepReport) -> StepLog | None:
    """Return what the device reports, None for a step or a state that a newer agent knows."""
    if report.step not in agent_pb2.Step.values() or report.state not in agent_pb2.StepState.values():
        return None
    return StepLog(
        device=device,
        generation=report.generation,
        step=agent_pb2.Step.Name(report.step).removeprefix("STEP_"),
        state=agent_pb2.StepState.Name(report.state).removeprefix("STEP_STATE_"),
        message=report.message,
        attempt=report.attempt,
        # By the hub's clock: a device's may be wrong at boot.
        reported_at=utc_now(),
    )


def _device_build(device: str, told: devices_pb2.DeviceBuild) -> DeviceBuild:
    """Return what the device told, of itself alone whatever it wrote. Raises InvalidInput for a state that is none."""
    if told.state not in devices_pb2.DeviceBuildState.values()[1:]:
        raise InvalidInput(f"DeviceBuild.state is {told.state}, which this hub does not know")
    built = from_proto(told, DeviceBuild)
    built.device = device
    return built


def _outgoing(message: Outgoing) -> agent_pb2.ConnectResponse:
    if isinstance(message, Passed):
        return agent_pb2.ConnectResponse.FromString(message.body)
    if isinstance(message, Assignment | NewAssignment):
        return agent_pb2.ConnectResponse(assignment=to_proto(message, agent_pb2.Assignment))
    if isinstance(message, MeasurementTask):
        return agent_pb2.ConnectResponse(measurement_request=_measurement_request(message))
    if isinstance(message, TimingTask):
        return agent_pb2.ConnectResponse(tuning_request=_tuning_request(message))
    if isinstance(message, HelpTask):
        kind = agent_pb2.HelpKind.Value(f"HELP_KIND_{message.kind.value}")
        return agent_pb2.ConnectResponse(
            help_request=agent_pb2.HelpRequest(
                id=message.id, kind=kind, cursor=message.cursor, max_bytes=message.max_bytes
            )
        )
    if isinstance(message, Care):
        return agent_pb2.ConnectResponse(care=_care(message))
    if isinstance(message, CacheKey):
        told = agent_pb2.CacheKey(key=message.key)
        told.now.FromDatetime(message.now)
        return agent_pb2.ConnectResponse(cache_key=told)
    if isinstance(message, NewCertificate):
        return agent_pb2.ConnectResponse(
            certificate=agent_pb2.Certificate(
                certificate=message.certificate, renew_after_seconds=message.renew_after_seconds
            )
        )
    if isinstance(message, SamplingPolicy):
        return agent_pb2.ConnectResponse(sampling=agent_pb2.SamplingPolicy(**vars(message)))
    assert isinstance(message, AgentSettings)
    return agent_pb2.ConnectResponse(
        settings=agent_pb2.Settings(
            heartbeat_seconds=message.heartbeat_seconds,
            telemetry_seconds=message.telemetry_seconds,
            renew_after_seconds=message.renew_after_seconds,
        )
    )


def _measurement_request(task: MeasurementTask) -> agent_pb2.MeasurementRequest:
    return agent_pb2.MeasurementRequest(
        id=task.id,
        files=[to_proto(file, common_pb2.File) for file in task.item.files],
        engine=task.item.engine,
        precision=task.item.precision,
        warm_up_repeats=task.policy.warm_up_repeats,
        min_repeats=task.policy.min_repeats,
        max_repeats=task.policy.max_repeats,
        budget_seconds=task.policy.budget_seconds,
        batch=task.batch or task.id,
        batch_size=task.batch_size,
    )


def _care(message: Care) -> agent_pb2.Care:
    care = agent_pb2.Care(restarts=message.restarts, profiles=message.profiles, upgrades=message.upgrades)
    if message.release is not None:
        care.release.manifest.CopyFrom(to_proto(message.release.manifest, common_pb2.File))
        care.release.version = message.release.version
        care.release.wheels.extend(to_proto(file, common_pb2.File) for file in message.release.wheels)
    return care


def _tuning_request(task: TimingTask) -> agent_pb2.TuningRequest:
    item = task.item
    return agent_pb2.TuningRequest(
        id=task.id,
        session=to_proto(item.session, common_pb2.File),
        kernels=to_proto(item.kernels, common_pb2.File),
        signature=item.signature,
        max_seconds_each=item.max_seconds_each,
        seconds_each=item.seconds_each,
        max_seconds=item.max_seconds,
    )
