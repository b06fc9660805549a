"""Several hubs on one PostgreSQL as they are run: processes of their own, behind a balancer, with one broker and one data folder."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milonga_hub.authority import Authority
from milonga_hub.cli import main
from milonga_hub.transports.mosquitto import installed

from tests.e2e.processes import Child

# What a load balancer has, and what each hub has: addresses of this machine, all with the same ports, as machines would.
FRONT = "127.0.0.1"
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
_AGAIN_SECONDS = 0.1


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Balancer:
    """Gives each connection to the next hub that takes it; a hub out of rotation gets none and loses those that it has."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self.hosts: list[str] = []
        self._turn = 0
        self._open: dict[str, set[asyncio.StreamWriter]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Balancer]:
        servers = [await asyncio.start_server(self._for(port), FRONT, port) for port in self._ports]
        yield self
        for server in servers:
            server.close()
        for host in HOSTS:
            self.take_out(host)

    def take_out(self, host: str) -> None:
        """Do what a health check does that fails."""
        if host in self.hosts:
            self.hosts.remove(host)
        for writer in self._open.pop(host, set()):
            writer.transport.abort()

    def _for(self, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(len(self.hosts)):
                self._turn += 1
                host = self.hosts[self._turn % len(self.hosts)]
                with suppress(OSError):
                    there, to = await asyncio.open_connection(host, port)
                    self._open.setdefault(host, set()).update((writer, to))
                    await asyncio.gather(_pump(reader, to), _pump(there, writer))
                    self._open.get(host, set()).difference_update((writer, to))
                    return
            writer.transport.abort()

        return serve


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    with suppress(OSError):
        writer.close()


@dataclass
class HubProcess:
    """One hub; its id among the others is another at each start."""

    host: str
    child: Child
    folder: Path
    ports: dict[str, int]

    def start(self) -> None:
        self.child.start()

    def ask(self, path: str) -> Any:
        """Return what the hub answers, None where it does not."""
        key = (self.folder / "local.key").read_text(encoding="utf-8").partition(".")[0]
        url = f"http://{self.host}:{self.ports['http']}{path}"
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return {"http_status": error.code, "said": error.read().decode()}
        except OSError:
            return None

    def post(self, path: str, body: Any = None) -> Any:
        key = (self.folder / "local.key").read_text(encoding="utf-8").partition(".")[0]
        url = f"http://{self.host}:{self.ports['http']}{path}"
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        sent = urllib.request.Request(url, data=json.dumps(body or {}).encode(), headers=headers, method="POST")
        with urllib.request.urlopen(sent, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.child.pid, number)

    @property
    def is_ready(self) -> bool:
        found = self.ask("/readyz")
        return isinstance(found, dict) and found.get("status") == "ready"

    def log(self) -> str:
        return self.child.log.read_text(encoding="utf-8", errors="replace")


@dataclass
class Cluster:
    """Hubs, their broker and their balancer. What runs ends with `close`."""

    folder: Path
    url: str
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("http", "grpc", "device")})
    hubs: list[HubProcess] = field(default_factory=list)
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._stack = ExitStack()
        self.data = self.folder / "data"
        self.data.mkdir(parents=True)
        self.broker = self._broker()
        for host in HOSTS[:2]:
            self.hubs.append(self.hub(host))

    def hub(self, host: str, options: Sequence[str] = (), source: Path | None = None) -> HubProcess:
        """Return a hub that is not started yet: of this source, or of a folder with another."""
        command = [sys.executable, "-m", "milonga_hub.cli", "up", "--data-dir", str(self.data), "--host", host]
        if source is not None:
            paths = os.pathsep.join(str(source / name) for name in ("hub", "protos", "compiler", "agent"))
            command = ["env", f"PYTHONPATH={paths}", *command]
        for name, port in self.ports.items():
            command += [f"--{name}-port", str(port)]
        command += [
            "--database-url",
            self.url,
            "--broker",
            self.broker,
            "--server-names",
            FRONT,
            *self.options,
            *options,
        ]
        child = Child(host, command, self.folder / f"{host}.log")
        self._stack.callback(child.stop)
        return HubProcess(host, child, self.data, self.ports)

    def _broker(self) -> str:
        """Start mosquitto as `milonga broker config` writes it; return its URL."""
        program = installed()
        assert program is not None
        port = free_port()
        Authority(self.data / "authority")
        files = self.folder / "mosquitto"
        written = ["--folder", str(files), "--port", str(port), "--name", FRONT]
        assert main(["broker", "config", "mosquitto", *written, "--data-dir", str(self.data)]) == 0
        config = files / "mosquitto.conf"
        config.write_text(f"user {getpass.getuser()}\n" + config.read_text())
        process = subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return f"mqtts://{FRONT}:{port}"

    def close(self) -> None:
        for hub in self.hubs:
            with suppress(ProcessLookupError, AssertionError):
                hub.signal(signal.SIGCONT)
        self._stack.close()


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 900.0) -> Any:
    """Return what the condition returns once that is true: what it looks at is in other processes."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = await asyncio.to_thread(condition)
                if found:
                    return found
                await asyncio.sleep(_AGAIN_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"waited {seconds:g} s for {what}") from error
