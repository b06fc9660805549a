"""The processes of a whole system on one machine: a hub and its agents, started as their users start them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
from milonga.pinning import HUB_NAME
from milonga.v1 import (
    datasets_pb2_grpc,
    devices_pb2_grpc,
    models_pb2_grpc,
    projects_pb2_grpc,
    rollouts_pb2_grpc,
    telemetry_pb2_grpc,
)

from tests.databases import database_setting

T = TypeVar("T")

# Where what is found out matters more than how exactly: on cores that others use too, each network would be timed ten times as long.
QUICKLY = ("--measuring-seconds", "1")

# Becomes the command that follows and ends with its parent: 1 is PR_SET_PDEATHSIG of <linux/prctl.h>. Not a preexec_fn:
# with one, Python forks without exec, and gRPC, which has threads here, then aborts one process of fifty.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
_WRAPPER = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT] if sys.platform == "linux" else []


class Stopped(RuntimeError):
    """A process ended that should not have; the message holds the end of its log."""


@dataclass(frozen=True)
class Api:
    """One channel to the hub and a stub for each of its services."""

    channel: grpc.Channel

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", devices_pb2_grpc.DeviceServiceStub(self.channel))
        object.__setattr__(self, "datasets", datasets_pb2_grpc.DatasetServiceStub(self.channel))
        object.__setattr__(self, "projects", projects_pb2_grpc.ProjectServiceStub(self.channel))
        object.__setattr__(self, "runs", projects_pb2_grpc.RunServiceStub(self.channel))
        object.__setattr__(self, "models", models_pb2_grpc.ModelServiceStub(self.channel))
        object.__setattr__(self, "builds", models_pb2_grpc.BuildServiceStub(self.channel))
        object.__setattr__(self, "rollouts", rollouts_pb2_grpc.RolloutServiceStub(self.channel))
        object.__setattr__(self, "telemetry", telemetry_pb2_grpc.TelemetryServiceStub(self.channel))

    devices: devices_pb2_grpc.DeviceServiceStub = field(init=False)
    datasets: datasets_pb2_grpc.DatasetServiceStub = field(init=False)
    projects: projects_pb2_grpc.ProjectServiceStub = field(init=False)
    runs: projects_pb2_grpc.RunServiceStub = field(init=False)
    models: models_pb2_grpc.ModelServiceStub = field(init=False)
    builds: models_pb2_grpc.BuildServiceStub = field(init=False)
    rollouts: rollouts_pb2_grpc.RolloutServiceStub = field(init=False)
    telemetry: telemetry_pb2_grpc.TelemetryServiceStub = field(init=False)


@dataclass
class Child:
    """One process with a log file; it ends with this one, however this one ends."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_WRAPPER, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} has not been started"
        return self.process.pid

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 15.0) -> int | None:
        """Ask it to end, insist after a while, and return its exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        code = self.process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return code

    def check(self) -> None:
        """Raise Stopped if it has ended."""
        if self.process is not None and self.process.poll() is not None:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise Stopped(f"{self.name} ended with exit code {self.process.returncode}:\n{tail}")


class System:
    """A hub and agents in one folder. Use it in a `with` block: everything it started ends with the block."""

    def __init__(self, folder: Path, hub_options: Sequence[str] = ()) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "milonga_hub.cli", "up", "--data-dir", str(folder / "hub")]
        ports = ["--http-port", "0", "--grpc-port", "0", "--device-port", "0", "--mqtt-port", "0"]
        database = ["--database-url", database_setting(folder / "hub")]
        self.hub = Child("hub", [*command, *ports, *database, *hub_options], folder / "hub.log")
        self.agents: dict[str, Child] = {}
        self.addresses: dict[str, str] = {}
        self._api: Api | None = None

    def __enter__(self) -> System:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_hub(self, seconds: float = 180.0) -> dict[str, str]:
        """Start the hub, also after it was killed, on the ports it had, and return its addresses."""
        known = self.folder / "hub" / "hub.json"
        known.unlink(missing_ok=True)
        said = self._lines_of_starts()
        command = list(self.hub.command)
        for name, address in self.addresses.items():
            command[command.index(f"--{name}-port") + 1] = address.rpartition(":")[2]
        self.hub.command = command
        self.hub.start()
        self.addresses = self.wait("the hub to start", lambda: self._read_addresses(known), seconds)
        # What people read comes after what programs read.
        self.wait("the hub to say where it is", lambda: self._lines_of_starts() > said or None, seconds)
        if self._api is not None:
            self._api.channel.close()
            self._api = None
        return self.addresses

    @property
    def key(self) -> str:
        """Return the hub's local key: who may read its data folder is its admin. It is new at each start."""
        return (self.folder / "hub" / "local.key").read_text(encoding="utf-8").partition(".")[0]

    @property
    def set_up_link(self) -> str:
        """Return the link with which a browser makes the first account, as the hub printed it at its last start."""
        lines = self.hub.log.read_text(encoding="utf-8", errors="replace").splitlines()
        links = [line.partition(": ")[2] for line in lines if line.startswith("Make the first account there: ")]
        return links[-1] if links else ""

    def _lines_of_starts(self) -> int:
        if not self.hub.log.exists():
            return 0
        return self.hub.log.read_text(encoding="utf-8", errors="replace").count("Ctrl-C stops it.")

    def fetch(self, path: str) -> bytes:
        """Return what the hub answers over HTTP."""
        url, headers = f"http://{self.addresses['http']}{path}", {"Authorization": f"Bearer {self.key}"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return bytes(answer.read())

    @staticmethod
    def _read_addresses(path: Path) -> dict[str, str] | None:
        if not path.exists():
            return None
        known = json.loads(path.read_text(encoding="utf-8"))
        return {name: known[name] for name in ("http", "grpc", "device", "mqtt")}

    @property
    def api(self) -> Api:
        """Return the hub's gRPC API. Who forks must not have asked for it: gRPC's threads do not come along."""
        if self._api is None:
            authority = (self.folder / "hub" / "authority" / "authority.pem").read_bytes()
            options = [("grpc.ssl_target_name_override", HUB_NAME)]
            credentials = grpc.composite_channel_credentials(
                grpc.ssl_channel_credentials(authority), grpc.access_token_call_credentials(self.key)
            )
            self._api = Api(grpc.secure_channel(self.addresses["grpc"], credentials, options))
        return self._api

    def start_agent(self, name: str, token: str = "", options: Sequence[str] = ()) -> Child:
        """Start an agent, or start it again; the token is needed only the first time."""
        if name not in self.agents:
            command = [sys.executable, "-m", "milonga_agent", "run", "--hub", self.addresses["grpc"], "--name", name]
            command += ["--data-dir", str(self.folder / name), *options]
            command += ["--join-token", token] if token else []
            self.agents[name] = Child(name, command, self.folder / f"{name}.log")
        self.agents[name].start()
        return self.agents[name]

    def check(self) -> None:
        for child in (self.hub, *self.agents.values()):
            child.check()

    def wait(self, what: str, ready: Callable[[], T | None], seconds: float) -> T:
        """Return what `ready` returns once it is true. Raises TimeoutError naming what was waited for, or Stopped."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            result = ready()
            if result:
                return result
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} s for {what}; the logs are in {self.folder}")
            time.sleep(0.1)  # The condition is elsewhere: in another process.

    def stop(self) -> None:
        """End all processes, agents first."""
        if self._api is not None:
            self._api.channel.close()
            self._api = None
        for child in (*self.agents.values(), self.hub):
            child.stop()
