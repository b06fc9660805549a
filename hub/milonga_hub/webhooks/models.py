"""Addresses of others that are told what happens in the hub, and the messages to them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Bound
from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.outbox import DeliveryView
from milonga_hub.posting import check_address

_DAY_SECONDS = 86_400.0
_MONTH_SECONDS = 31 * _DAY_SECONDS


class EventKind(StrEnum):
    """What can be told; the type of the CloudEvent is "milonga." and this."""

    ALERT_OPENED = "alert.opened"
    ALERT_RESOLVED = "alert.resolved"
    BUILD_REJECTED = "build.rejected"
    BUILD_VERIFIED = "build.verified"
    DATASET_IMPORTED = "dataset.imported"
    DATASET_LABELLED = "dataset.labelled"
    DEVICE_ENROLLED = "device.enrolled"
    DEVICE_SILENT = "device.silent"
    ROLLOUT_FINISHED = "rollout.finished"
    ROLLOUT_PAUSED = "rollout.paused"
    RUN_FINISHED = "run.finished"


class WebhookSpec(BaseModel):
    """What somebody asks for."""

    model_config = ConfigDict(extra="forbid")

    url: str = Bound(max_length=2000)
    # Left out: the one that the hub has already, or a new one.
    secret: str = ""
    # None is all.
    events: list[EventKind] = []
    # Empty: of all projects, and of what belongs to none.
    project: str = ""
    give_up_after_seconds: float = Bound(default=_DAY_SECONDS, ge=0, le=_MONTH_SECONDS)

    @model_validator(mode="after")
    def _usable(self) -> WebhookSpec:
        check_address(self.url)
        return self


class WebhookView(SQLModel):
    """What is shown of a webhook; its secret is not."""

    name: str = Field(primary_key=True)
    url: str
    events: list[EventKind] = Field(default=[], sa_type=json_of(list[EventKind]))
    project: str = ""
    give_up_after_seconds: float = _DAY_SECONDS
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class Webhook(WebhookView, table=True):
    secret: str
    # What happened before, but for what was written late, has its message in the outbox.
    told_until: datetime = Field(sa_type=UTC_TIME)


class WebhookDeliveryView(DeliveryView):
    webhook: str = Field(index=True)
    # Of what happened: a resource name such as rollouts/digits-1.
    subject: str = ""


class WebhookDelivery(WebhookDeliveryView, table=True):
    """One event to one webhook, kept until it has arrived or was given up, and for its history."""

    __tablename__ = "webhook_delivery"
    # The JSON body as it was made: repeats are the same to the byte.
    body: str = ""


class Happening(BaseModel):
    """Something that happened, as it is told."""

    kind: EventKind
    subject: str
    at: datetime
    data: dict[str, Any]
    # Whose it is; a data set may have several.
    projects: list[str] = []
