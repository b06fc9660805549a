"""Devices that follow their assignments, before the real DeviceService; the builds are only a list."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from milonga_hub.builds.models import Build, BuildOverride, BuildState
from milonga_hub.db import Database
from milonga_hub.devices.models import File, Inventory, StepLog
from milonga_hub.devices.service import DeviceService, Enrolment
from milonga_hub.devices.streams import DeviceStream
from milonga_hub.devices.values import AgentStatus, Hello
from milonga_hub.events import EventBus
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.settings import Settings

from tests.certificates import Key
from tests.databases import database_setting

START = datetime(2026, 3, 1, tzinfo=UTC)


def bundle_of(version: int, board: str = "pi5") -> str:
    return f"sha256:{board}{version}".ljust(71, "0")


def version_name(version: int) -> str:
    return f"models/digits/versions/{version}"


class KnownBuilds:
    """One build for each version and board, verified unless a test says otherwise."""

    def __init__(self, boards: list[str]) -> None:
        self.boards = boards
        self.state = BuildState.VERIFIED
        self.override: BuildOverride | None = None

    def chosen(self, model_version: str) -> dict[str, Build]:
        version = int(model_version.rpartition("/")[2])
        return {board: self._build(version, board) for board in self.boards}

    def by_bundle(self, digest: str) -> Build | None:
        found = [self._build(version, board) for version in range(1, 5) for board in self.boards]
        return next((build for build in found if build.bundle == digest), None)

    def _build(self, version: int, board: str) -> Build:
        return Build(
            name=f"{version_name(version)}/builds/{board}-onnxruntime-int8",
            model_version=version_name(version),
            device_type=board,
            engine="onnxruntime",
            precision="int8",
            state=self.state,
            override=self.override,
            bundle=bundle_of(version, board),
            files=[File(path="manifest.json", digest=bundle_of(version, board), size_bytes=10)],
            chosen=True,
        )


class Fleet:
    """A hub without servers: real devices, rollouts and database, and a clock that is moved by hand."""

    def __init__(self, folder: Path, boards: dict[str, str]) -> None:
        self.now = START
        self.events = EventBus()
        self.settings = Settings(data_dir=folder, database_url=database_setting(folder))
        self.database = Database(self.settings.resolved_database_url)
        self.database.create_tables()
        self.devices = DeviceService(self.database, self.events, self.settings, self.clock)
        self.builds = KnownBuilds([board for board in dict.fromkeys(boards.values()) if board != "toaster"])
        # How each device answers a bundle it cannot run: the failing step and what it says.
        self.faults: dict[str, tuple[str, str]] = {}
        self.status: dict[str, AgentStatus] = {}
        # Those whose agents are from before there were shadows.
        self.old: set[str] = set()
        self._streams: dict[str, DeviceStream] = {}
        for name, board in boards.items():
            self.join(name, board)
        self.rollouts = self.restarted()

    def clock(self) -> datetime:
        return self.now

    def restarted(self) -> RolloutService:
        """Return the service as a hub that has just started has it: nothing but the database."""
        return RolloutService(self.database, self.events, self.devices, self.builds, self.clock)

    def join(self, name: str, board: str) -> None:
        _, token = self.devices.create_join_token({})
        inventory = Inventory(board=board, machine_id=name)
        self.devices.enrol(Enrolment(token, name, inventory, "1", True, {}, Key().request()))
        self.status[name] = AgentStatus()
        self.connect(name)

    def connect(self, name: str) -> None:
        async def opened() -> DeviceStream:
            return self.devices.connections.open(name, self.hello(name))

        # Streams belong to an event loop; what they carry is not of interest here.
        self._streams[name] = asyncio.run(opened())

    def hello(self, name: str) -> Hello:
        """Return what the device says when it connects."""
        inventory, knows = self.devices.get(name).inventory, name not in self.old
        return Hello(inventory=inventory, status=self.status[name], knows_shadows=knows)

    def disconnect(self, name: str) -> None:
        self.devices.connections.close(self._streams.pop(name))

    def obey(self, *names: str) -> list[str]:
        """Let connected devices (all, or these) reach their newest assignment; return those that had a new one."""
        moved = []
        for name in names or list(self._streams):
            wish = self.devices.assignment(name)
            if wish is None or wish.generation <= self.status[name].generation:
                continue
            active = wish.bundle
            if name in self.faults and wish.bundle:
                step, message = self.faults[name]
                active = self.status[name].active_bundle
                self._report(name, wish.generation, step, "FAILED", message)
                self._report(name, wish.generation, "ROLL_BACK", "SUCCEEDED", "")
            else:
                self._report(name, wish.generation, "COMMIT", "SUCCEEDED", "")
            self.tell(name, AgentStatus(generation=wish.generation, active_bundle=active))
            moved.append(name)
        return sorted(moved)

    def tell(self, name: str, status: AgentStatus) -> None:
        self.status[name] = status
        self.devices.connections.heartbeat(name, status)

    def _report(self, name: str, generation: int, step: str, state: str, message: str) -> None:
        report = StepLog(device=name, generation=generation, step=step, state=state, message=message)
        self.devices.connections.step(report)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def serving(self) -> dict[str, str]:
        return {name: status.active_bundle for name, status in self.status.items()}
