"""The doors at which bytes come in that others wrote, each with good inputs to damage and the words by which it may refuse."""

from __future__ import annotations

import asyncio
import io
import json
import random
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from google.protobuf.message import DecodeError, Message
from milonga import pictures, tickets
from milonga.deltas import DeltaInvalid, apply
from milonga.throttling import Throttle
from milonga.v1 import agent_pb2, telemetry_pb2
from milonga_agent import caching, plan, tensors
from milonga_agent.assignments import wish_of
from milonga_agent.downloads import Chunks
from milonga_agent.errors import AgentError
from milonga_agent.served import Served
from milonga_hub.authority import presented, requested_key
from milonga_hub.datasets import layouts
from milonga_hub.datasets.archive import open_archive
from milonga_hub.devices.rpc import AgentRpc, DeviceAddress, EnrolmentRpc
from milonga_hub.devices.selectors import parse as parse_selector
from milonga_hub.devices.streams import DeviceStream
from milonga_hub.devices.values import MeasuringPolicy
from milonga_hub.errors import MilongaError
from milonga_hub.projects.models import PROJECT_FILE, DriftPolicy
from milonga_hub.telemetry.messages import parse_window
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.transfers.making import make
from PIL import Image

from tests.certificates import Key
from tests.devices.world import World
from tests.fuzz.inputs import damaged, strange, strange_json
from tests.transfers.networks import retrained, weights, write

REFUSALS = (MilongaError, AgentError, DecodeError, DeltaInvalid, pictures.PictureError, caching.Refused)
_TICKET_KEY = b"key"
_DEVICE = "pi-1"
_PROJECTS = Path(__file__).parent.parent.parent / "fleet_configs" / "projects"
_MANIFEST = {
    "project": "digits", "model_version": "models/digits/versions/1", "task": "classification", "engine": "onnxruntime",
    "precision": "fp32", "model_file": "model.onnx", "classes": ["0", "1"],
    "input": {"name": "image", "shape": [1, 3, 16, 16], "size_px": 16, "mean": [0.5] * 3, "std": [0.5] * 3},
    "probe": {"input_file": "a.npy", "expected_file": "b.npy", "max_abs_error": 0.1}, "files": [],
}  # fmt: skip
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Door:
    """`offer` makes an input and hands it in; it may raise REFUSALS. `share`: so many of all doors' shares it gets."""

    name: str
    share: int
    offer: Callable[[random.Random], object]


class Doors:
    """All doors of a hub that knows one device, and of an agent beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._hub = self._loop.run_until_complete(self._opened())
        self._certificate = self._admitted()

    def close(self) -> None:
        self._loop.close()

    async def _opened(self) -> World:
        return World(self._folder / "hub", MeasuringPolicy())

    def _admitted(self) -> bytes:
        request = agent_pb2.EnrolRequest(
            join_token=self._hub.token(), device=_DEVICE, agent_version="1.0", certificate_request=Key().request()
        )
        answer = self._loop.run_until_complete(self._enrolment().Enrol(request, _Call()))
        return bytes(answer.certificate.encode())

    def _enrolment(self) -> EnrolmentRpc:
        return EnrolmentRpc(self._hub.devices, lambda: DeviceAddress(1, "", 2))

    def all(self) -> list[Door]:
        """Return the doors. Those that write to a database get fewer inputs: each takes a millisecond."""
        return [*self._of_the_hub(), *self._of_people(), *self._of_the_agent()]

    def _of_the_hub(self) -> list[Door]:
        """What devices send, and machines that want to be devices."""
        window = telemetry_pb2.TelemetryWindow(device=_DEVICE, boot_id="boot", sequence=3, request_count=4)
        window.latency_ms.p50 = 2.0
        window.class_counts.extend([3, 1])
        key, certificate = Key().request(), self._certificate
        said = [
            agent_pb2.ConnectRequest(heartbeat=agent_pb2.Heartbeat(status=agent_pb2.AgentStatus(generation=1))),
            agent_pb2.ConnectRequest(
                step=agent_pb2.StepReport(generation=1, step=agent_pb2.STEP_PROBE, state=agent_pb2.STEP_STATE_FAILED)
            ),
            agent_pb2.ConnectRequest(measurement=agent_pb2.MeasurementResult(id="a", attempts=1)),
            agent_pb2.ConnectRequest(certificate_request=agent_pb2.CertificateRequest(certificate_request=key)),
            agent_pb2.ConnectRequest(cache=agent_pb2.Cache(addresses=["192.0.2.7:8600"], certificate_sha256=bytes(32))),
        ]
        enrol = agent_pb2.EnrolRequest(join_token="mlg-x", device="pi-2", certificate_request=key)
        return [
            Door("telemetry", 300, lambda source: self._window(_encoded(source, [window]))),
            Door("telemetry, stored", 3, lambda source: self._store(_encoded(source, [window]))),
            Door("what agents say", 12, lambda source: self._said(_encoded(source, said))),
            Door("machines that join", 6, lambda source: self._join(_encoded(source, [enrol]))),
            Door("certificate requests", 60, lambda source: requested_key(damaged(source, [key]))),
            Door("certificates", 60, lambda source: presented(damaged(source, [certificate]))),
        ]

    def _of_people(self) -> list[Door]:
        """What people and programs send."""
        selectors = [b"type in (pi5, pi4), site=busan, !canary", b'name="a b", arch!=x86_64', b"x notin (a)"]
        documents = [path.read_bytes() for path in sorted(_PROJECTS.glob("*.yaml"))]
        parsed = [yaml.safe_load(text) for text in documents]
        documents.append(
            b"kind: Project\nname: a\nspec: &s {a: &a [1, 1], b: &b [*a, *a], c: &c [*b, *b], d: [*c, *s]}\n"
        )
        archives = _archives()
        return [
            Door("selectors", 150, lambda source: parse_selector(_text(source, selectors))),
            Door("page tokens", 10, lambda source: self._hub.devices.list("", 2, _text(source, [b"cGktMQ", b""]))),
            Door("project files", 4, lambda source: PROJECT_FILE.parse(_text(source, documents), "p.yaml")),
            Door("projects", 6, lambda source: PROJECT_FILE.parse(_dumped(strange_json(source, parsed)), "p.yaml")),
            Door("archives", 6, lambda source: self._archive(damaged(source, archives))),
        ]

    def _of_the_agent(self) -> list[Door]:
        """What clients on the device, the hub, and whoever stands between send."""
        asked = [
            {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]},
            {
                "inputs": [{"name": "picture", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}],
                "outputs": [{"name": "class", "parameters": {"binary_data": True}}],
                "parameters": {"binary_data_output": True},
            },
            {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]},
        ]
        bodies = [json.dumps(one).encode() for one in asked]
        files = [agent_pb2.Assignment().files.add(path="model.onnx", digest="sha256:" + "1" * 64, size_bytes=3)]
        assignment = agent_pb2.Assignment(generation=2, bundle="sha256:" + "2" * 64, files=files)
        blob = "sha256:" + "3" * 64
        ticket = tickets.issue(_TICKET_KEY, _DEVICE, blob, 1 << 60)
        head = f"GET /blobs/{blob} HTTP/1.1\r\nRange: bytes=12-\r\nAuthorization: Ticket {ticket}\r\n\r\n"
        questions = [head.encode("ascii")]
        chunks = agent_pb2.Chunks(size_bytes=10, chunk_bytes=4, digests=[b"1" * 32] * 3)
        images = [_picture(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP")]
        base = write(self._folder / "base.onnx", weights())
        deltas = [make(base, write(self._folder / "new.onnx", retrained(weights())))]
        return [
            Door("inference bodies", 150, lambda source: _asked(source, damaged(source, bodies))),
            Door("inference requests", 150, lambda source: _asked(source, _spelled(strange_json(source, asked)))),
            Door("assignments", 60, lambda source: _wished(_encoded(source, [assignment]))),
            Door("questions to a cache", 60, lambda source: self._ask_cache(damaged(source, questions))),
            Door("chunks", 60, lambda source: _cut(_encoded(source, [chunks]))),
            Door("manifests", 20, lambda source: self._manifest(_spelled(strange_json(source, [_MANIFEST])))),
            Door("pictures", 20, lambda source: _shown(damaged(source, images))),
            Door("deltas", 4, lambda source: self._delta(base, damaged(source, deltas))),
        ]

    def _window(self, data: bytes) -> Any:
        return parse_window(f"milonga/v1/{_DEVICE}/telemetry", data)

    def _store(self, data: bytes) -> None:
        hub = self._hub
        service = TelemetryService(hub.database, hub.events, lambda bundle: None, lambda project: DriftPolicy())
        service.store([service.examine(self._window(data))])

    def _said(self, data: bytes) -> None:
        agents = AgentRpc(self._hub.devices, self._hub.transfers, self._hub.signing)
        message = agent_pb2.ConnectRequest.FromString(data)

        async def hear() -> None:
            await agents._read(DeviceStream(_DEVICE), "192.0.2.7", _once(message))

        self._loop.run_until_complete(hear())

    def _ask_cache(self, data: bytes) -> None:
        server = caching.Server(self._folder, Throttle(0))
        server.use(_TICKET_KEY, 0.0)
        server.allowed(data.decode("latin-1"), _DEVICE)

    def _join(self, data: bytes) -> None:
        request = agent_pb2.EnrolRequest.FromString(data)
        if request.join_token:
            request.join_token = self._hub.token(uses=1)
        self._loop.run_until_complete(self._enrolment().Enrol(request, _Call()))

    def _archive(self, data: bytes) -> None:
        path = self._folder / "archive"
        path.write_bytes(data)
        with open_archive(path) as archive:
            layouts.read(archive, self._hub.blobs, None)

    def _manifest(self, data: bytes) -> None:
        folder = self._folder / "bundle"
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_bytes(data)
        Served(folder, 1)

    def _delta(self, base: Path, data: bytes) -> None:
        path = self._folder / "delta"
        path.write_bytes(data)
        apply(path, base, io.BytesIO())


class _Call:
    """What a handler asks of the call it is in."""

    def peer(self) -> str:
        return "ipv4:192.0.2.7:5000"


async def _once(message: Any) -> AsyncIterator[Any]:
    yield message


def _encoded(source: random.Random, seeds: Sequence[Message]) -> bytes:
    """Return a message with strange values, or the bytes of a good one damaged."""
    if source.random() < 0.5:
        return damaged(source, [seed.SerializeToString() for seed in seeds])
    message: Any = type(seeds[0])()
    strange(source, message)
    # Some of it as it should be, so that the rest is looked at.
    for field, value in source.choice(seeds).ListFields():
        if source.random() < 0.7:
            message.ClearField(field.name)
            part = type(message)()
            if field.is_repeated:
                getattr(part, field.name).extend(value)
            elif field.message_type is not None:
                getattr(part, field.name).CopyFrom(value)
            else:
                setattr(part, field.name, value)
            message.MergeFrom(part)
    return bytes(message.SerializeToString())


def _text(source: random.Random, seeds: Sequence[bytes]) -> str:
    return damaged(source, seeds).decode("utf-8", "replace")


def _spelled(value: Any) -> bytes:
    return json.dumps(value).encode()


def _dumped(value: Any) -> str:
    return str(yaml.safe_dump(value, allow_unicode=True))


def _asked(source: random.Random, body: bytes) -> None:
    length = source.choice((None, len(body), len(body) // 2, 0, len(body) + 1))
    tensors.parse(body, length, ("class", "probabilities"))


def _wished(data: bytes) -> None:
    plan.accept(plan.State(), wish_of(agent_pb2.Assignment.FromString(data)))


def _cut(data: bytes) -> None:
    told = agent_pb2.Chunks.FromString(data)
    chunks = Chunks(told.size_bytes, told.chunk_bytes, tuple(told.digests))
    if chunks.is_sound:
        for index in range(len(chunks.digests)):
            offset, length = chunks.span(index)
            assert 0 <= offset < told.size_bytes and 0 < length <= told.chunk_bytes


def _shown(data: bytes) -> None:
    image = pictures.decode(data)
    pictures.to_array(image, 16)
    pictures.statistics(image)


def _picture(kind: str) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(packed, kind)
    return packed.getvalue()


def _archives() -> list[bytes]:
    """Return a picture in a class folder and one with boxes, each as zip and as tar."""
    picture = _picture("PNG")
    layouts_ = (
        {"a/1.png": picture, "b/2.png": _picture("BMP")},
        {
            "data.yaml": b"names: [bolt]\ntrain: images/train\nval: images/val\n",
            "images/train/1.png": picture,
            "labels/train/1.txt": b"0 0.5 0.5 0.2 0.2\n",
        },
    )
    return [pack(files) for files in layouts_ for pack in (_zipped, _tarred)]


def _zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def _tarred(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def refused(door: Door, source: random.Random) -> bool:
    """Offer one input and return whether it was refused in words. Any other error comes out."""
    with suppress(*REFUSALS):
        door.offer(source)
        return False
    return True
