"""What is known of subnets from all runs: measurements on every device type, by the subnet's choices."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from sqlmodel import select

from milonga_hub.db import Database
from milonga_hub.devices.service import DeviceService
from milonga_hub.search.models import KnownSubnet

#: What subnets are measured for while a run searches, each as it is first built for its target.
SEARCHING = ("profile", "verify")


class SearchService:
    """Remembers subnets, and returns what devices measured of them."""

    def __init__(self, database: Database, devices: DeviceService) -> None:
        self._database, self._devices = database, devices

    def remember(self, space: str, resolution_px: int, subnets: Sequence[dict[str, Any]]) -> None:
        """Keep the encodings of subnets ({"subnet", "encoding"}); those that are known stay as they are."""
        with self._database.session() as session:
            for one in subnets:
                session.merge(
                    KnownSubnet(
                        subnet=one["subnet"], space=space, resolution_px=resolution_px, encoding=list(one["encoding"])
                    )
                )

    def measured(self, space: str, resolution_px: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """Return by device type and engine what runs measured of this space while they searched:
        {"subnet", "encoding", "precision", "median_ms", "peak_memory_bytes"}.

        A subnet that was measured several times counts with the median. What was measured of builds is left out: those may be
        tuned, or quantised otherwise.
        """
        found: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
        for (device_type, engine), rows in self.taken(space, resolution_px).items():
            for one in rows:
                found.setdefault((device_type, engine, one["subnet"], one["precision"]), []).append(one)
        by_type: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for (device_type, engine, subnet, precision), some in sorted(found.items()):
            row = {
                "subnet": subnet,
                "encoding": some[0]["encoding"],
                "precision": precision,
                "median_ms": median(one["median_ms"] for one in some),
                "peak_memory_bytes": max(one["peak_memory_bytes"] for one in some),
            }
            by_type.setdefault((device_type, engine), []).append(row)
        return by_type

    def taken(self, space: str, resolution_px: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """Return the same measurements one by one, the oldest first, with "run" and "purpose"."""
        with self._database.session() as session:
            statement = select(KnownSubnet).where(
                KnownSubnet.space == space, KnownSubnet.resolution_px == resolution_px
            )
            encodings = {one.subnet: one.encoding for one in session.exec(statement)}
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for one in sorted(self._devices.measured(list(encodings)), key=lambda each: each.measured_at):
            if one.purpose in SEARCHING:
                row = one.model_dump(
                    include={"subnet", "precision", "median_ms", "peak_memory_bytes", "run", "purpose"}
                )
                found.setdefault((one.device_type, one.engine), []).append({**row, "encoding": encodings[one.subnet]})
        return found
