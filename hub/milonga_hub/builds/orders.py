"""What runs asked their build jobs for, so that other targets of the same subnets can be built later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlmodel import col, select

from milonga_hub.builds.models import BuildOrder
from milonga_hub.builds.rules import Allowed
from milonga_hub.db import Database
from milonga_hub.errors import NotFound


class BuildOrders:
    """One for each model version and device type."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(
        self,
        model_version: str,
        device_type: str,
        spec: Mapping[str, Any],
        allowed: Allowed,
        predicted_ms: float | None,
    ) -> None:
        """Keep the job's spec, and what the type's builds are held to on its devices."""
        order = BuildOrder(
            key=_key(model_version, device_type),
            spec=dict(spec),
            latency_ms=allowed.latency_ms,
            model_bytes=allowed.model_bytes,
            memory_bytes=allowed.memory_bytes,
            predicted_ms=predicted_ms,
        )
        with self._database.session() as session:
            session.merge(order)

    def get(self, model_version: str, device_type: str) -> BuildOrder:
        """Return the order. Raises NotFound saying for which types there is one."""
        with self._database.session() as session:
            order = session.get(BuildOrder, _key(model_version, device_type))
        if order is not None:
            return order
        if known := self.types(model_version):
            raise NotFound(
                f"{model_version} has no subnet for device type {device_type!r}; it has for: {', '.join(known)}. A new version has one for each"
                " type of then: milonga runs start, or milonga models import"
            )
        raise NotFound(
            f"{model_version} is not there, or an earlier version of the hub made it, which kept no subnets to build from;"
            " start a run: milonga runs start PROJECT"
        )

    def types(self, model_version: str) -> list[str]:
        """Return the device types for whose subnets there is an order."""
        of_version = col(BuildOrder.key).startswith(_key(model_version, ""), autoescape=True)
        with self._database.session() as session:
            return sorted(key.partition("|")[2] for key in session.exec(select(BuildOrder.key).where(of_version)))


def _key(model_version: str, device_type: str) -> str:
    return f"{model_version}|{device_type}"
