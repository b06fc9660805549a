"""Pictures of devices over real gRPC with real certificates: what is allowed arrives once, and nothing else at all."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from milonga.v1 import agent_pb2, labelling_pb2
from milonga_agent.sample_folder import SampleFolder
from milonga_agent.sample_sending import SampleSending
from milonga_hub.labelling.models import SampleState
from PIL import Image

from tests.devices.world import Agent, run
from tests.labelling.floor import Floor, digest, floor, header, messages, picture

Messages = Iterable[agent_pb2.UploadSamplesRequest]


async def _refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def _offer(agent: Agent, *digests: str, project: str = "parts") -> agent_pb2.OfferSamplesResponse:
    request = agent_pb2.OfferSamplesRequest(project=project, digests=digests)
    answer: agent_pb2.OfferSamplesResponse = await agent.stub.OfferSamples(request)
    return answer


def test_a_picture_arrives_with_what_the_device_said_and_is_not_wanted_again(tmp_path: Path) -> None:
    data = picture(1)

    async def story() -> None:
        async with floor(tmp_path, enabled=True) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            assert list((await _offer(agent, digest(data))).wanted) == [digest(data)]
            told = await agent.stub.UploadSamples(messages(data, model_version="models/parts/versions/1"))
            assert list(told.done) == [digest(data)]
            (sample,) = hub.samples()
            assert (sample.device, sample.device_type) == ("pi-1", hub.world.devices.get("pi-1").device_type)
            assert (sample.predicted, sample.confidence, sample.width, sample.height) == ("bolt", 0.4, 32, 32)
            assert sample.state is SampleState.WAITING and sample.model_version == "models/parts/versions/1"
            assert hub.labelling.picture(sample.name) == (data, "image/png")
            again = await _offer(agent, digest(data))
            assert (list(again.wanted), list(again.done)) == ([], [digest(data)])

    run(story())


def test_a_project_that_does_not_allow_it_gets_no_picture(tmp_path: Path) -> None:
    data = picture(1)

    async def story() -> None:
        # Nothing is said of samples: they are off.
        async with floor(tmp_path) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            for call in (_offer(agent, digest(data)), agent.stub.UploadSamples(messages(data))):
                error = await _refused(call)
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED
                assert "spec.samples.enabled" in str(error.details())
            assert not hub.samples() and not hub.pictures()

    run(story())


def test_a_device_sends_nothing_for_a_project_that_is_not_its_own(tmp_path: Path) -> None:
    data = picture(1)

    async def story() -> None:
        async with floor(tmp_path, enabled=True) as hub, Agent(hub.world, "pi-1") as agent:
            hub.apply("other", enabled=True)
            await hub.device(agent)
            for project in ("other", "nowhere", ""):
                for call in (
                    _offer(agent, digest(data), project=project),
                    agent.stub.UploadSamples(messages(data, project=project)),
                ):
                    assert (await _refused(call)).code() is grpc.StatusCode.PERMISSION_DENIED
            assert not hub.pictures()

    run(story())


def test_a_picture_on_its_way_while_sampling_is_switched_off_is_not_kept(tmp_path: Path) -> None:
    data = picture(1)

    async def story() -> None:
        async with floor(tmp_path, enabled=True) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            first, *rest = messages(data)

            async def slowly() -> AsyncIterator[agent_pb2.UploadSamplesRequest]:
                yield first
                hub.apply(enabled=False)
                for each in rest:
                    yield each

            assert (await _refused(agent.stub.UploadSamples(slowly()))).code() is grpc.StatusCode.PERMISSION_DENIED
            assert not hub.samples() and not hub.pictures()

    run(story())


def _gif() -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (8, 8)).save(packed, "GIF")
    return packed.getvalue()


def _bomb() -> bytes:
    """Return a small file that says it has 20,000 by 20,000 pixels."""
    packed = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(packed, "PNG")
    return packed.getvalue()


def test_what_is_no_picture_is_refused_and_told_and_nothing_of_it_kept(tmp_path: Path) -> None:
    cases = {
        b"<script>alert(1)</script>": "not a PNG or JPEG picture",
        picture(1)[:-30]: "not a picture that can be read",
        _gif(): "not a PNG or JPEG picture",
        _bomb(): "exceeds limit",
        picture(1, size_px=128): "the project takes 64",
    }

    async def story() -> None:
        async with floor(tmp_path, enabled=True, max_side_px=64) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            # One stream for all: the last is a picture, and arrives as if nothing had been.
            told = await agent.stub.UploadSamples(messages(*cases, picture(2)))
            # The device is to forget the others as well: they will not get better.
            assert len(told.done) == len(cases) + 1
            refused = {sample.digest: sample.message for sample in hub.samples(SampleState.REFUSED)}
            for data, said in cases.items():
                assert said in refused[digest(data)]
            assert [sample.digest for sample in hub.samples(SampleState.WAITING)] == [digest(picture(2))]
            assert len(hub.pictures()) == 1

    run(story())


def _bad(*requests: Any) -> Messages:
    for each in requests:
        kind = "chunk" if isinstance(each, bytes) else "header"
        yield agent_pb2.UploadSamplesRequest(**{kind: each})


DATA = picture(1)


def test_an_upload_that_makes_no_sense_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    senseless = {
        "no header": (DATA,),
        "more": (header(DATA), DATA + b"x"),
        "less": (header(DATA), DATA[:9], header(DATA)),
        "wrong digest": (header(DATA, digest="sha256:" + "0" * 64), DATA),
        "a path": (header(DATA, digest="../../etc/passwd"), DATA),
        "nothing": (header(DATA, size_bytes=0),),
        "negative": (header(DATA, size_bytes=-1),),
        "huge": (header(DATA, size_bytes=1 << 40),),
        "unknown reason": (header(DATA, reason=77), DATA),
    }

    async def story() -> None:
        async with floor(tmp_path, enabled=True) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            for name, requests in senseless.items():
                error = await _refused(agent.stub.UploadSamples(_bad(*requests)))
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, name
            assert not hub.samples() and not hub.pictures()

    run(story())


def test_whatever_a_device_says_of_its_picture_is_brought_to_measure(tmp_path: Path) -> None:
    box = labelling_pb2.SampleBox(label="n\x00ut", x=float("nan"), y=7.0, width=-1.0, height=float("inf"), score=0.5)
    wild = {"predicted": "\x1b[31mbolt" * 100, "confidence": float("nan"), "predicted_boxes": [box] * 400}

    async def story() -> None:
        async with floor(tmp_path, enabled=True) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            far = header(DATA, **wild)
            far.taken_at.seconds = 1 << 60
            await agent.stub.UploadSamples(_bad(far, DATA))
            (sample,) = hub.samples()
            assert sample.confidence == 0.0 and len(sample.predicted) == 200 and "\x1b" not in sample.predicted
            assert len(sample.predicted_boxes) == 300
            first = sample.predicted_boxes[0]
            assert (first.label, first.x, first.y, first.width, first.height) == ("nut", 0.0, 1.0, 0.0, 0.0)

    run(story())


def test_a_device_may_send_so_many_pictures_in_24_hours_and_no_more(tmp_path: Path) -> None:
    some = [picture(seed) for seed in range(4)]

    async def story() -> None:
        async with floor(tmp_path, enabled=True, pictures_per_day=2) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            assert len((await _offer(agent, *map(digest, some))).wanted) == 2
            error = await _refused(agent.stub.UploadSamples(messages(*some)))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            # What had arrived is kept, and not sent again; the others wait for the next day.
            offered = await _offer(agent, *map(digest, some))
            assert (list(offered.done), list(offered.wanted)) == ([*map(digest, some[:2])], [])
            hub.world.clock.advance(86_401)
            assert len((await _offer(agent, *map(digest, some))).wanted) == 2

    run(story())


def test_pictures_that_look_alike_are_asked_about_once_and_kept_once(tmp_path: Path) -> None:
    noisy = io.BytesIO()
    Image.open(io.BytesIO(picture(1, 128))).save(noisy, "JPEG", quality=90)

    async def story() -> None:
        async with floor(tmp_path, enabled=True) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            await agent.stub.UploadSamples(messages(picture(1, 128), noisy.getvalue(), picture(2, 128)))
            waiting = hub.samples(SampleState.WAITING)
            assert sorted(one.digest for one in waiting) == sorted(digest(picture(seed, 128)) for seed in (1, 2))
            (like,) = [one for one in hub.samples() if one.like]
            assert like.digest == digest(noisy.getvalue()) and len(hub.pictures()) == 2

    run(story())


def test_a_device_is_told_what_it_may_send_when_it_connects_and_whenever_that_changes(tmp_path: Path) -> None:
    async def story() -> None:
        async with floor(tmp_path) as hub, Agent(hub.world, "pi-1") as agent:
            telling = asyncio.ensure_future(hub.intake.run())
            await agent.enrol()
            await agent.connect()
            assert not (await agent.hear("sampling")).enabled
            hub.world.devices.assign("pi-1", "sha256:" + "1" * 64, [], "models/parts/versions/1", "parts", "x/fp32")
            await agent.hear("assignment")
            told = await agent.hear("sampling")
            assert (told.project, told.enabled) == ("parts", False)
            hub.apply(enabled=True, pictures_per_day=7)
            told = await agent.hear("sampling")
            assert told.enabled and told.pictures_per_day == 7 and told.bytes_per_day == 20_000_000
            hub.apply(enabled=False)
            assert not (await agent.hear("sampling")).enabled
            telling.cancel()

    run(story())


class _Line:
    """The agent's way to the hub, which breaks after so many messages."""

    def __init__(self, agent: Agent, breaks_after: int, before_it_breaks: Callable[[], Awaitable[None]]) -> None:
        self._agent = agent
        self._before_it_breaks = before_it_breaks
        self.breaks_after = breaks_after
        self.sent: list[str] = []

    async def offer_samples(self, request: agent_pb2.OfferSamplesRequest) -> agent_pb2.OfferSamplesResponse:
        answer: agent_pb2.OfferSamplesResponse = await self._agent.stub.OfferSamples(request)
        return answer

    async def upload_samples(self, messages: AsyncIterator[agent_pb2.UploadSamplesRequest]) -> list[str]:
        call = self._agent.stub.UploadSamples()
        async for message in messages:
            if not self.breaks_after:
                await self._before_it_breaks()
                call.cancel()
                raise OSError("the line broke")
            self.breaks_after -= 1
            if message.WhichOneof("message") == "header":
                self.sent.append(message.header.digest)
            await call.write(message)
        await call.done_writing()
        return list((await call).done)


def test_after_a_broken_line_only_what_did_not_arrive_is_sent_again(tmp_path: Path) -> None:
    some = [picture(seed) for seed in range(3)]

    async def apply(project: str, told: dict[str, Any] | None) -> None:
        pass

    async def story() -> None:
        async with floor(tmp_path / "hub", enabled=True) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            folder = SampleFolder(tmp_path / "device")
            for number, data in enumerate(some):
                folder.put(agent_pb2.KeptSample(header=header(data), picture=data), 1_800_000_000.0 + number)
            # Two pictures and the header of the third: each is a header and a chunk.
            line = _Line(agent, 5, lambda: _until_arrived(hub, 2))
            sending = SampleSending(folder, line, apply)
            assert await sending.send() and not line.sent  # No policy, no picture.
            sending.set_policy(agent_pb2.SamplingPolicy(project="parts", enabled=True))
            with pytest.raises(OSError, match="broke"):
                await sending.send()
            assert len(folder.digests()) == 3
            line.breaks_after, line.sent = 1000, []
            assert await sending.send()
            assert line.sent == [digest(some[2])] and not folder.digests()
            assert len(hub.samples(SampleState.WAITING)) == 3

    run(story())


async def _until_arrived(hub: Floor, count: int) -> None:
    await hub.world.until(lambda: len(hub.samples()) >= count)


class _Nobody:
    """A hub that must not be called."""

    async def offer_samples(self, request: agent_pb2.OfferSamplesRequest) -> agent_pb2.OfferSamplesResponse:
        raise AssertionError("a picture was offered")

    async def upload_samples(self, messages: AsyncIterator[agent_pb2.UploadSamplesRequest]) -> list[str]:
        raise AssertionError("a picture was sent")


def test_a_device_that_is_told_to_stop_deletes_what_it_has(tmp_path: Path) -> None:
    told: list[Any] = []

    async def apply(project: str, policy: dict[str, Any] | None) -> None:
        told.append((project, policy))

    async def story() -> None:
        folder = SampleFolder(tmp_path)
        folder.put(agent_pb2.KeptSample(header=header(DATA), picture=DATA), 1_800_000_000.0)
        sending = SampleSending(folder, _Nobody(), apply)
        sending.set_policy(agent_pb2.SamplingPolicy(project="parts", enabled=False))
        await sending.follow()
        assert told == [("parts", None)] and not folder.digests()
        # One that the worker was just writing goes at the next look, and is not offered.
        folder.put(agent_pb2.KeptSample(header=header(DATA), picture=DATA), 1_800_000_000.0)
        assert await sending.send() and not folder.digests()

    run(story())


def test_a_device_whose_operator_lets_it_keep_nothing_asks_no_hub_to_delete_what_it_has(tmp_path: Path) -> None:
    async def apply(project: str, policy: dict[str, Any] | None) -> None:
        assert policy is None

    async def story() -> None:
        folder = SampleFolder(tmp_path)
        folder.put(agent_pb2.KeptSample(header=header(DATA), picture=DATA), 1_800_000_000.0)
        sending = SampleSending(folder, _Nobody(), apply, allowed=False)
        # Whatever the hub says.
        sending.set_policy(agent_pb2.SamplingPolicy(project="parts", enabled=True))
        await sending.follow()
        assert not folder.digests()
        folder.put(agent_pb2.KeptSample(header=header(DATA), picture=DATA), 1_800_000_000.0)
        assert await sending.send() and not folder.digests()

    run(story())


def test_what_was_kept_before_pictures_were_to_be_blurred_never_leaves_the_device(tmp_path: Path) -> None:
    async def apply(project: str, told: dict[str, Any] | None) -> None:
        pass

    async def story() -> None:
        async with floor(tmp_path / "hub", enabled=True) as hub, Agent(hub.world, "pi-1") as agent:
            await hub.device(agent)
            sharp = agent_pb2.KeptSample(header=header(DATA), picture=DATA)
            SampleFolder(tmp_path / "device").put(sharp, 1_800_000_000.0)
            # The agent has begun again with --redact blur.
            folder = SampleFolder(tmp_path / "device", "blur")
            line = _Line(agent, 1000, lambda: _until_arrived(hub, 0))
            sending = SampleSending(folder, line, apply)
            sending.set_policy(agent_pb2.SamplingPolicy(project="parts", enabled=True))
            # Also where it lies there a moment longer than it should.
            await sending.send()
            assert not line.sent and not hub.samples() and not folder.digests()

    run(story())
