"""What the agent costs a device: time to start, memory and processor while idle, and time on top of the engine."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.results import Result, median_and_spread
from tests.agent.bundles import Example, example
from tests.e2e.loop import AGENTS, Loop, Scale
from tests.e2e.processes import System

_IMPORT_REPEATS = 9
_IDLE_SECONDS = 20.0
_REQUESTS = 2000
# What any device daemon with gRPC, protocol buffers and MQTT loads.
_PEER = "import asyncio, logging, grpc, grpc.aio, paho.mqtt.client, psutil, google.protobuf.timestamp_pb2"


def run() -> list[Result]:
    """Return all claims about the agent."""
    return [_import_time(), *_idle(), *_serving()]


def _seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def _import_time() -> Result:
    own, peer = [], []
    for _ in range(_IMPORT_REPEATS):
        own.append(_seconds("import milonga_agent.daemon"))
        peer.append(_seconds(_PEER))
    value, spread = median_and_spread(own)
    return Result(
        "start to imported", value, "s", "Python with the same libraries", statistics.median(peer), 1.25, spread
    )


def _pss(process: psutil.Process) -> float:
    return float(process.memory_full_info().pss) / 1e6


def _idle() -> list[Result]:
    """An agent that is connected to a real hub and serves nothing, against a Python that only holds its libraries."""
    code = f"{_PEER}; print(flush=True); input()"
    peer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert peer.stdout is not None
    peer.stdout.readline()
    with tempfile.TemporaryDirectory() as folder, System(Path(folder)) as system:
        loop = Loop(system, Scale(known=1, later=1, live=1))
        system.start_hub()
        token = loop.cli("tokens", "create")["secret"]
        agent = psutil.Process(system.start_agent("orin", token, AGENTS["orin"]).pid)
        system.wait("the agent to be online", lambda: any(device.state == 1 for device in loop.devices()), 30)
        before = agent.cpu_times()
        time.sleep(_IDLE_SECONDS)
        after = agent.cpu_times()
        memory, peer_memory = _pss(agent), _pss(psutil.Process(peer.pid))
    peer.communicate(b"\n")
    spent = (after.user + after.system - before.user - before.system) / _IDLE_SECONDS
    return [
        Result("idle memory (PSS)", memory, "MB", "Python with the same libraries", peer_memory, 1.25),
        Result("idle processor", 100 * spent, "% of a core", "1 % of a core", 1.0, 1.0),
    ]


def _serving() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        made = example(Path(folder))
        from milonga_agent.serve import Server
        from milonga_agent.served import Served

        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        served = Served(made.bundle.folder, threads=1)
        server = Server(listening, served)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            return _compare(made, listening.getsockname()[1])
        finally:
            server.drain(5)
            thread.join()


def _compare(made: Example, port: int) -> list[Result]:
    """Interleave bare engine calls with requests, so that other work on the machine falls on both alike."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = made.bundle.folder / made.bundle.manifest["model_file"]
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    tensor = made.pictures.normalised[700:701]
    ask = _asker(port)
    raw = tensor.tobytes()
    entry = {"name": "image", "shape": list(tensor.shape), "datatype": "FP32"}
    head = json.dumps(
        {
            "inputs": [{**entry, "parameters": {"binary_data_size": len(raw)}}],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    ).encode()
    picture = {"name": "picture", "shape": [1], "datatype": "BYTES"}
    png = json.dumps({"inputs": [{**picture, "data": [base64.b64encode(made.png(700)).decode()]}]}).encode()
    kinds: dict[str, Callable[[], object]] = {
        "bare": lambda: session.run(None, {"image": tensor}),
        "tensor": lambda: ask(head + raw, {"Inference-Header-Content-Length": str(len(head))}),
        "picture": lambda: ask(png, {}),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for index in range(_REQUESTS):
        for name, call in kinds.items():
            began = time.perf_counter()
            call()
            if index >= _REQUESTS // 10:
                times[name].append((time.perf_counter() - began) * 1e3)
    bare = statistics.median(times["bare"])
    peer = "a bare onnxruntime call"
    results = []
    for name, claim in (("tensor", "request with a binary tensor"), ("picture", "request with an encoded picture")):
        value, spread = median_and_spread(times[name])
        # The network takes microseconds, so the ratio says what the protocol costs at its worst.
        results.append(Result(f"{claim}, {bare * 1e3:.0f} us network", value, "ms", peer, bare, None, spread))
        results.append(
            Result(
                f"{claim}, added to a network of 10 ms",
                value - bare + 10,
                "ms",
                "the network alone (computed)",
                10.0,
                1.2,
            )
        )
    return results


def _asker(port: int) -> Callable[[bytes, dict[str, str]], object]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(body: bytes, headers: dict[str, str]) -> object:
        connection.request("POST", "/v2/models/digits/infer", body, headers)
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise RuntimeError(data.decode())
        return data

    return ask
