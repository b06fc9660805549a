"""What outsiders may see of stored rows: views without hashes, request ids and other insides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from fastapi import Query
from pydantic import BaseModel

from milonga_hub.alerts.models import Alert, AlertView
from milonga_hub.datasets.models import DatasetVersion, DatasetVersionView
from milonga_hub.db import utc_now
from milonga_hub.devices import rules_upgrades
from milonga_hub.devices.models import Device, DeviceView, JoinToken, JoinTokenView
from milonga_hub.labelling.models import QueuedSample, SampleView
from milonga_hub.rollouts.models import Rollout
from milonga_hub.rollouts.rules_ending import seen
from milonga_hub.runs.models import Run, RunView
from milonga_hub.telemetry.models import TelemetryWindow, TelemetryWindowView

V = TypeVar("V", bound=BaseModel)

# Rows that hold more than people may see; all others are shown whole.
_VIEWS: dict[type, type[BaseModel]] = {
    JoinToken: JoinTokenView,
    DatasetVersion: DatasetVersionView,
    Run: RunView,
    TelemetryWindow: TelemetryWindowView,
    Alert: AlertView,
    QueuedSample: SampleView,
}

PageSize = Annotated[int, Query(ge=0, le=1000, description="0 takes the hub's own size.")]
PageToken = Annotated[str, Query(description="next_page_token of the page before; empty for the first.")]


def files(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """Return how a route describes its answer where that is a file of one of these types, and no JSON."""
    content = {name: {"schema": {"type": "string", "format": "binary"}} for name in media_types}
    return {200: {"description": "The file.", "content": content}}


def view(view_class: type[V], row: object) -> V:
    """Return those fields of the row that the view has."""
    return view_class(**{name: getattr(row, name) for name in view_class.model_fields})


def views(view_class: type[V], rows: Iterable[object]) -> list[V]:
    return [view(view_class, row) for row in rows]


def shown(payload: Any) -> Any:
    """Return what may be sent of an event's payload."""
    if isinstance(payload, Rollout):
        return seen(payload)
    if isinstance(payload, Device):
        return view(DeviceView, rules_upgrades.seen(payload, utc_now()))
    view_class = _VIEWS.get(type(payload))
    return payload if view_class is None else view(view_class, payload)
