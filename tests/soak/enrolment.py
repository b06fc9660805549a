"""What a machine does to join a hub, and what must hold whenever it dies meanwhile.

Who uses this forks, and must not have used gRPC before: its threads do not come along. The hub is a real one in a process of its own; each machine has a token that counts once. It is killed at a system call of the
thread that writes to the disk; others of its threads and its helper process die, or do not, when they do.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from milonga.v1 import devices_pb2
from milonga_agent.enrolment import Joining, enrol, identity
from milonga_agent.errors import AgentError
from milonga_agent.inventory import probe
from milonga_agent.keys import KEY
from milonga_agent.limits import Limits
from milonga_agent.state import Identity, Store

from tests.e2e.processes import System
from tests.soak import kills
from tests.soak.story import Broken


@dataclass
class Machines:
    """Machines that join one hub, each in a folder of its own."""

    system: System
    folder: Path
    # How many system calls joining takes, twice; found out by the first machine.
    stops: int = 0
    _names: set[str] = field(default_factory=set)

    def die(self, number: int) -> None:
        """Let one machine die while it joins, and raise Broken where it does not join afterwards as the same device."""
        source = random.Random(f"enrol/{number}")
        name, token = f"machine-{number}", self._ask("/api/v1/join_tokens", {"uses": 1})["secret"]
        folder = self.folder / name
        if not self.stops:
            stops = kills.run_until(lambda: self._join(folder, token, name), None)
            assert stops is not None
            self.stops = stops
        else:
            # Later machines take a few calls more or fewer: how fast the hub answers decides.
            kills.run_until(lambda: self._join(folder, token, name), source.randrange(1, self.stops))
        before = self._demand_whole(folder)
        kills.run_until(lambda: self._join(folder, token, name), None)
        after = self._demand_whole(folder)
        if after is None or (before is not None and after != before) or after.device != name:
            raise Broken(f"{name} was {before} before it started anew, and is {after}")
        self._names.add(name)

    def check(self) -> None:
        """Raise Broken where the hub knows other devices than those that joined: none may be there twice."""
        known, token = set(), ""
        while True:
            page = self._ask(f"/api/v1/devices?page_size=1000&page_token={token}")
            known |= {device["name"] for device in page["devices"]}
            token = page["next_page_token"]
            if not token:
                break
        if known != self._names:
            raise Broken(f"the hub knows {sorted(known ^ self._names)} besides, or not")

    def _join(self, folder: Path, token: str, name: str) -> None:
        joining = Joining(self.system.addresses["grpc"], name, _inventory, token)
        asyncio.run(_joined(joining, folder))

    @staticmethod
    def _demand_whole(folder: Path) -> Identity | None:
        """Return who the machine is. Raises Broken where what it has written cannot be read, or does not fit together."""
        store = Store(folder)
        try:
            known = store.identity()
            if known is None:
                return None
            credentials = store.credentials()
            key = serialization.load_pem_private_key(credentials.key, password=None)
            certificate = x509.load_pem_x509_certificate(credentials.certificate)
            authority = x509.load_pem_x509_certificate(credentials.authority)
            certificate.verify_directly_issued_by(authority)
        except (AgentError, OSError, ValueError, TypeError, KeyError) as error:
            raise Broken(f"{folder.name} cannot read what it wrote: {error!r}") from error
        if certificate.public_key() != key.public_key() or (folder / KEY).stat().st_mode & 0o077:
            raise Broken(f"{folder.name} has a certificate of another key, or a key that others may read")
        return known

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"http://{self.system.addresses['http']}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.system.key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


async def _joined(joining: Joining, folder: Path) -> None:
    store = Store(folder)
    if os.environ.get("MILONGA_SOAK_HALF"):
        # For the test of the test: as if certificates were not written whole.
        keep = store.keep_certificate
        setattr(store, "keep_certificate", lambda certificate: keep(certificate[:99]))  # noqa: B010 -- as in story.py
    if await identity(joining, store) is None:
        await enrol(joining, store)


async def _inventory() -> devices_pb2.Inventory:
    return probe(Limits())
