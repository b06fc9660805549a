"""What a new version costs the line: deltas between trained networks against general tools, and lines that break."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import bsdiff4
import grpc
import httpx
import psutil
import torch
import zstandard
from milonga.pinning import HUB_NAME
from milonga.v1 import agent_pb2, agent_pb2_grpc
from milonga_compiler.engines import Precision
from milonga_compiler.target import Target
from milonga_hub import counts
from milonga_hub.learning.built import built
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.export import export
from milonga_hub.learning.spaces import Encoding, space
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.train import Trainer, subnet
from milonga_hub.transfers.making import make

from benchmarks._digits import SIZE_PX, task, trained
from benchmarks.results import Result, median_and_spread
from tests.devices.world import Agent, hub
from tests.transfers.lines import Line, cache, line, noise
from tests.transports.fault_proxy import NO_FAULT, Fault, faults

RECIPE = Recipe("resnet", SIZE_PX, epochs=3, batch_size=32, learning_rate=0.2, seed=0)
# As a project trains on when new labels have come: fewer epochs, from where it was.
AGAIN = Recipe("resnet", SIZE_PX, epochs=1, batch_size=32, learning_rate=0.02, seed=1)
_CALIBRATION = 64
_MB = 1 << 20
_SENDINGS, _ROUNDS = 3, 5
_NEAR, _NEAR_MB = 10, 20
_ENGINES = ("onnxruntime fp16", "onnxruntime int8", "openvino fp32", "openvino fp16", "ncnn fp32")
# Against the best of the general tools.
_GOALS: dict[str, float | None] = {
    "retrained, fp32": 0.7,
    "retrained, fp16": 0.5,
    "smaller subnet of the supernet, fp32": 0.15,
    "the same network, fp32 to onnxruntime fp16": 0.05,
    "the same network, fp32 to onnxruntime int8": 0.1,
    "the same network, fp32 to openvino fp16": 0.05,
    # All of them find the same bytes again: some kilobytes are left of megabytes.
    "the same network, fp32 to openvino fp32": None,
    "the same network, fp32 to ncnn fp32": None,
}


@dataclass(frozen=True)
class Case:
    """What a device has, and what it shall have."""

    name: str
    base: Path
    target: Path


def run() -> list[Result]:
    """Return all claims about transfers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *(_compared(case) for case in cases(folder)),
            *_broken(folder / "broken"),
            _near(folder),
            _served(folder / "served"),
        ]


def cases(folder: Path) -> list[Case]:
    """Train a supernet, train it on with other pictures, and write what devices would be sent."""
    family, first, second = space("resnet", SIZE_PX), task(), task(seed=1)
    before = trained(family, first, RECIPE, folder, "the supernet")
    trainer = Trainer(second, family, AGAIN, folder / "again.pt", base=folder / "the-supernet.pt")
    trainer.run(lambda fraction, *_: print(f"\r  training on: {fraction:4.0%} ", end="", file=sys.stderr, flush=True))
    print(file=sys.stderr)
    after = trainer.supernet
    largest, middle = family.largest(), family.canonical([size // 2 for size in family.sizes])
    old = _written(before, largest, first, folder / "old.onnx")
    new = _written(after, largest, second, folder / "new.onnx")
    other = _written(before, middle, first, folder / "other.onnx")

    def built_for(path: Path, name: str) -> Path:
        target = Target(name.split()[0], Precision(name.split()[1]))
        files = built(path, target, lambda: torch.cat([*first.calibration])[:_CALIBRATION].numpy()).files
        return max(files.values(), key=lambda file: file.stat().st_size)

    return [
        Case("retrained, fp32", old, new),
        Case("retrained, fp16", built_for(old, "onnxruntime fp16"), built_for(new, "onnxruntime fp16")),
        Case("retrained, int8", built_for(old, "onnxruntime int8"), built_for(new, "onnxruntime int8")),
        Case("smaller subnet of the supernet, fp32", old, other),
        Case("larger subnet of the supernet, fp32", other, old),
        *(Case(f"the same network, fp32 to {name}", old, built_for(old, name)) for name in _ENGINES),
    ]


def _written(supernet: Supernet, encoding: Encoding, of: Classification, path: Path) -> Path:
    export(supernet.space.deployed(subnet(supernet, encoding, of)), supernet.space.resolution(encoding), path)
    return path


def _compared(case: Case) -> Result:
    """Hold the delta against what general tools make of the same two files."""
    delta = len(make(case.base, case.target))
    old, new = case.base.read_bytes(), case.target.read_bytes()
    peers = {
        "zstd": len(zstandard.ZstdCompressor(level=19).compress(new)),
        "zstd --patch-from": _zstd_patch(old, new),
        "bsdiff": len(bsdiff4.diff(old, new)),
    }
    shares = ", ".join(f"{name} {size / len(new):.3f}" for name, size in peers.items())
    print(f"  {case.name}: {len(new) / 1e3:.0f} kB, delta {delta / len(new):.3f}; {shares}", file=sys.stderr)
    best = min(peers, key=lambda name: peers[name])
    return Result(
        f"{case.name}, {len(new) / 1e3:.0f} kB", delta / 1e3, "kB", best, peers[best] / 1e3, _GOALS.get(case.name, 1.0)
    )


def _zstd_patch(old: bytes, new: bytes) -> int:
    known = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = zstandard.ZstdCompressionParameters.from_level(19, window_log=27)
    return len(zstandard.ZstdCompressor(compression_params=parameters, dict_data=known).compress(new))


def _broken(folder: Path) -> list[Result]:
    """Fetch 100 MB over a line that is cut after every megabyte."""

    async def story() -> tuple[float, float, int]:
        async with line(folder, lambda _: Fault(cut_after_bytes=_MB)) as here:
            wish = here.assign({"model.onnx": noise(100 * _MB)})
            moved = await here.depot.download(wish.files, here.courier, lambda fraction: None)
            here.depot.verify(wish)
            return moved.moved_bytes / _MB, here.proxy.down_bytes / _MB, here.proxy.connections

    moved, down, connections = asyncio.run(story())
    whole = f"the build alone; {connections} connections"
    return [
        Result("100 MB over a line cut every MB: bytes of the build that came", moved, "MB", whole, 100.0, 1.01),
        Result("the same, with TLS, HTTP/2 and what was under way", down, "MB", whole, 100.0, 1.05),
    ]


def _near(folder: Path) -> Result:
    """Let ten devices fetch a build at once, one of which serves the others or does not, and look at what the hub sent."""

    async def sent_bytes(place: Path, caches: bool) -> int:
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(hub(place / "hub"))
            proxy = await stack.enter_async_context(faults(world.device_port, lambda _: NO_FAULT))
            lines = []
            for number in range(_NEAR):
                device = await stack.enter_async_context(Agent(world, f"pi-{number}"))
                await device.enrol()
                lines.append(Line(world, proxy, device, place / device.name))
            if caches:
                await lines[0].device.connect()
                await stack.enter_async_context(cache(lines[0]))
            wishes = [each.assign({"model.onnx": noise(_NEAR_MB * _MB)}) for each in lines]
            before = counts.blob_bytes["hub"]
            await asyncio.gather(
                *(
                    each.depot.download(wish.files, each.courier, lambda fraction: None)
                    for each, wish in zip(lines, wishes, strict=True)
                )
            )
            for each, wish in zip(lines, wishes, strict=True):
                each.depot.verify(wish)
            return counts.blob_bytes["hub"] - before

    with_cache = asyncio.run(sent_bytes(folder / "near", True)) / _MB
    without = asyncio.run(sent_bytes(folder / "alone", False)) / _MB
    claim = f"{_NEAR_MB} MB to {_NEAR} devices at once, one of them a cache: bytes that the hub sends"
    return Result(claim, with_cache, "MB", "without a cache", without, 0.15)


def _served(folder: Path) -> Result:
    """Send 100 MB again and again to one client, by turns from the hub's process and from uvicorn's."""
    folder.mkdir()
    (folder / "build").write_bytes(noise(100 * _MB))
    with _Server("grpc", folder) as own, _Server("http", folder) as peer:
        pairs = [(own.seconds_per_gb(), peer.seconds_per_gb()) for _ in range(_ROUNDS)]
    value, spread = median_and_spread([pair[0] for pair in pairs])
    return Result(
        "processor time to send a build (gRPC, mutual TLS)",
        value,
        "s/GB",
        "uvicorn's file response, without TLS",
        median([pair[1] for pair in pairs]),
        # 1.8 times as much for each second.
        1 / 1.8,
        spread,
    )


class _Server:
    """A server in a process of its own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        command = [sys.executable, "-m", "benchmarks._file_servers", kind, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> _Server:
        assert self._process.stdout is not None
        self._about = json.loads(self._process.stdout.readline())
        _fetch_all(self._kind, self._about, 1)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate("")

    def seconds_per_gb(self) -> float:
        """Return the processor time that some sendings take."""
        process = psutil.Process(self._process.pid)
        before = process.cpu_times()
        total = _fetch_all(self._kind, self._about, _SENDINGS)
        after = process.cpu_times()
        return (after.user + after.system - before.user - before.system) / (total / 1e9)


def _fetch_all(kind: str, about: dict[str, str], times: int) -> int:
    """Fetch the build so often and return how many bytes came."""
    if kind == "http":
        return sum(len(httpx.get(about["url"], timeout=120).content) for _ in range(times))

    async def fetch() -> int:
        credentials = grpc.ssl_channel_credentials(
            *(about[name].encode() for name in ("authority", "key", "certificate"))
        )
        options = [("grpc.ssl_target_name_override", HUB_NAME)]
        async with grpc.aio.secure_channel(about["address"], credentials, options=options) as channel:
            stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
            # As agents ask for it on a good line.
            request = agent_pb2.FetchBlobRequest(digest=about["digest"], piece_bytes=512 << 10)
            return sum([len(part.chunk) for _ in range(times) async for part in stub.FetchBlob(request)])

    return asyncio.run(fetch())
