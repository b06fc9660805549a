"""Labelling over gRPC: for people and programs (LabellingRpc), and what devices send (SampleReceiver)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from milonga.v1 import agent_pb2, labelling_pb2_grpc
from milonga.v1 import labelling_pb2 as pb

from milonga_hub.bridge import from_proto, to_proto
from milonga_hub.callers import signature
from milonga_hub.db import utc_now
from milonga_hub.devices.models import Device
from milonga_hub.devices.service import SamplingPolicy
from milonga_hub.errors import InvalidInput
from milonga_hub.labelling.intake import SampleIntake
from milonga_hub.labelling.models import QueuedSample, SampleBox, SampleReason, SampleState, SampleView
from milonga_hub.labelling.service import LabellingService

_MAX_OFFERED = 1000
# Pictures that are read at once; each may take 200 MB for a moment.
_AT_ONCE = 2


class LabellingRpc(labelling_pb2_grpc.LabellingServiceServicer):
    def __init__(self, labelling: LabellingService) -> None:
        self._labelling = labelling

    async def ListSamples(self, request: pb.ListSamplesRequest, context: Any) -> pb.ListSamplesResponse:
        state = None
        if request.state:
            if request.state not in pb.SampleState.values():
                raise InvalidInput(f"state is {request.state}, which this hub does not know")
            state = SampleState[pb.SampleState.Name(request.state).removeprefix("SAMPLE_STATE_")]
        found, token = await asyncio.to_thread(
            self._labelling.list,
            request.project,
            state,
            request.device,
            request.page_size,
            request.page_token,
            signature(""),
        )
        return pb.ListSamplesResponse(samples=[_message(one) for one in found], next_page_token=token)

    async def GetSample(self, request: pb.GetSampleRequest, context: Any) -> pb.GetSampleResponse:
        sample = await asyncio.to_thread(self._labelling.get, request.name)
        return pb.GetSampleResponse(sample=_message(sample))

    async def GetSamplePicture(self, request: pb.GetSamplePictureRequest, context: Any) -> pb.GetSamplePictureResponse:
        picture, media_type = await asyncio.to_thread(self._labelling.picture, request.name)
        return pb.GetSamplePictureResponse(picture=picture, media_type=media_type)

    async def LabelSample(self, request: pb.LabelSampleRequest, context: Any) -> pb.LabelSampleResponse:
        boxes = [from_proto(box, SampleBox) for box in request.boxes]
        sample = await asyncio.to_thread(
            self._labelling.label,
            request.name,
            request.label,
            boxes,
            request.accept,
            signature(request.decided_by),
            _revision(request),
        )
        return pb.LabelSampleResponse(sample=_message(sample))

    async def SkipSample(self, request: pb.SkipSampleRequest, context: Any) -> pb.SkipSampleResponse:
        sample = await asyncio.to_thread(
            self._labelling.skip, request.name, signature(request.decided_by), _revision(request)
        )
        return pb.SkipSampleResponse(sample=_message(sample))

    async def UndoSample(self, request: pb.UndoSampleRequest, context: Any) -> pb.UndoSampleResponse:
        sample = await asyncio.to_thread(
            self._labelling.undo, request.name, signature(request.decided_by), _revision(request)
        )
        return pb.UndoSampleResponse(sample=_message(sample))

    async def AddLabelledSamples(
        self, request: pb.AddLabelledSamplesRequest, context: Any
    ) -> pb.AddLabelledSamplesResponse:
        version, count = await asyncio.to_thread(self._labelling.add_labelled, request.project)
        return pb.AddLabelledSamplesResponse(dataset_version=version, added_count=count)

    async def GetLabelling(self, request: pb.GetLabellingRequest, context: Any) -> pb.GetLabellingResponse:
        summary = await asyncio.to_thread(self._labelling.summary, request.project)
        return pb.GetLabellingResponse(labelling=to_proto(summary, pb.Labelling))

    async def DiscardSamples(self, request: pb.DiscardSamplesRequest, context: Any) -> pb.DiscardSamplesResponse:
        count = await asyncio.to_thread(self._labelling.discard, request.project)
        return pb.DiscardSamplesResponse(discarded_count=count)


def _message(sample: QueuedSample) -> pb.Sample:
    return to_proto(sample, pb.Sample)


def _revision(request: pb.LabelSampleRequest | pb.SkipSampleRequest | pb.UndoSampleRequest) -> int | None:
    return request.revision if request.HasField("revision") else None


class SampleReceiver:
    """What AgentService does about pictures, for devices that have shown who they are."""

    def __init__(self, intake: SampleIntake) -> None:
        self._intake = intake
        self._reading = asyncio.Semaphore(_AT_ONCE)

    def greet(self, device: str) -> SamplingPolicy:
        return self._intake.greet(device)

    def offer(self, device: str, request: agent_pb2.OfferSamplesRequest) -> agent_pb2.OfferSamplesResponse:
        if len(request.digests) > _MAX_OFFERED:
            raise InvalidInput(f"at most {_MAX_OFFERED} pictures are offered at once; these are {len(request.digests)}")
        wanted, done = self._intake.offer(device, request.project, list(request.digests), request.dropped_count)
        return agent_pb2.OfferSamplesResponse(wanted=wanted, done=done)

    async def receive(
        self, device: Device, requests: AsyncIterator[agent_pb2.UploadSamplesRequest]
    ) -> agent_pb2.UploadSamplesResponse:
        """Take pictures one after the other; each counts when its last byte is there, whatever becomes of the rest."""
        done: list[str] = []
        told: SampleView | None = None
        data = bytearray()
        async for request in requests:
            if request.WhichOneof("message") == "header":
                if told is not None:
                    raise InvalidInput(
                        f"{told.digest} has {told.size_bytes} bytes, and {len(data)} came; send it again"
                    )
                told, data = _told(device, request.header), bytearray()
                await asyncio.to_thread(self._intake.expect, device.name, told)
                continue
            if told is None:
                raise InvalidInput("a picture begins with its header")
            data += request.chunk
            if len(data) > told.size_bytes:
                raise InvalidInput(f"{told.digest} has {told.size_bytes} bytes, and more came")
            if len(data) == told.size_bytes:
                async with self._reading:
                    await asyncio.to_thread(self._intake.receive, device, told, bytes(data))
                done.append(told.digest)
                told = None
        return agent_pb2.UploadSamplesResponse(done=done)


def _told(device: Device, header: agent_pb2.SampleHeader) -> SampleView:
    """Return the header as a sample of this device. Raises InvalidInput for a reason that is none."""
    if header.reason not in pb.SampleReason.values()[1:]:
        raise InvalidInput(f"SampleHeader.reason is {header.reason}, which this hub does not know")
    return SampleView(
        name="",
        project=header.project,
        digest=header.digest,
        device=device.name,
        model_version=header.model_version,
        reason=SampleReason[pb.SampleReason.Name(header.reason).removeprefix("SAMPLE_REASON_")],
        predicted=header.predicted,
        predicted_boxes=[
            SampleBox(label=box.label, x=box.x, y=box.y, width=box.width, height=box.height, score=box.score)
            for box in header.predicted_boxes
        ],
        confidence=header.confidence,
        taken_at=_time(header),
        size_bytes=header.size_bytes,
    )


def _time(header: agent_pb2.SampleHeader) -> datetime:
    """Return when the device says that it saw the picture; now, where it says what no calendar has."""
    try:
        return header.taken_at.ToDatetime(tzinfo=UTC) if header.HasField("taken_at") else utc_now()
    except (ValueError, OverflowError):
        return utc_now()
