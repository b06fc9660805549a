"""A hub's telemetry side as a process of its own, to be killed: python -m tests.transports.hub_process DATABASE PORT AUTHORITY BROKER."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from milonga_hub.authority import Authority
from milonga_hub.db import Database
from milonga_hub.devices.certificates import Certificates
from milonga_hub.devices.models import Device
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.intake import TelemetryIntake
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.transports.brokers import Broker
from milonga_hub.transports.mosquitto import Mosquitto, installed
from milonga_hub.transports.mqtt import EmbeddedBroker

from tests.databases import database_url


def broker_of(kind: str, authority: Authority, database: Database, folder: Path) -> Broker:
    if kind == "embedded":
        return EmbeddedBroker(authority, lambda shown: Device(name=shown.device, device_type=""))
    program = installed()
    assert program is not None
    return Mosquitto(program, folder, authority, Certificates(database))


async def serve(path: str, port: int, folder: str, kind: str) -> None:
    database = Database(database_url(Path(path)))
    database.create_tables()
    service = TelemetryService(database, EventBus(), lambda bundle: None, lambda project: DriftPolicy())
    authority = Authority(Path(folder))
    broker = broker_of(kind, authority, database, Path(path).parent / "broker")
    endpoint = await broker.start("127.0.0.1", port, ())
    # Small batches: many commits, so that the kill falls between one and its acknowledgement now and then.
    await TelemetryIntake(service.store, batch_size=3).start(endpoint)
    print(endpoint.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
