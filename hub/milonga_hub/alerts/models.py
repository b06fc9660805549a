"""Alert rules and channels as people write them, and the alerts, silences and messages that come of them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field as Bound
from pydantic import model_validator
from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.documents import Kind, Spec
from milonga_hub.outbox import DeliveryView
from milonga_hub.posting import check_address

_DAY_SECONDS = 86_400.0
# Of a rule's times; none needs more.
_MONTH_SECONDS = 31 * _DAY_SECONDS


class AlertSignal(StrEnum):
    """What a rule watches."""

    DEVICE_OFFLINE = "DEVICE_OFFLINE"
    DRIFT = "DRIFT"
    RUN_FAILED = "RUN_FAILED"
    ROLLOUT_PAUSED = "ROLLOUT_PAUSED"
    ROLLED_BACK = "ROLLED_BACK"
    ERROR_RATE = "ERROR_RATE"
    LATENCY = "LATENCY"
    TEMPERATURE = "TEMPERATURE"
    TELEMETRY_DROPPED = "TELEMETRY_DROPPED"
    THROTTLED = "THROTTLED"
    POWER = "POWER"
    TELEMETRY_REFUSED = "TELEMETRY_REFUSED"
    TELEMETRY_FLOOD = "TELEMETRY_FLOOD"
    DEVICE_CLOCK = "DEVICE_CLOCK"


class AlertSeverity(StrEnum):
    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


class AlertState(StrEnum):
    OPEN = "OPEN"
    RESOLVED = "RESOLVED"


class MailSecurity(StrEnum):
    STARTTLS = "STARTTLS"
    TLS = "TLS"
    NONE = "NONE"


class AlertRuleSpec(Spec):
    # Enums are not strict: YAML writes them as text.
    watch: AlertSignal = Bound(strict=False)
    # None takes the signal's own; see THRESHOLDS in rules.py.
    threshold: Annotated[float, Bound(ge=0)] | None = None
    for_seconds: float = Bound(default=0.0, ge=0, le=_MONTH_SECONDS)
    over_seconds: float = Bound(default=300.0, gt=0, le=_DAY_SECONDS)
    selector: str = ""
    project: str = ""
    severity: AlertSeverity = Bound(default=AlertSeverity.WARNING, strict=False)
    # Empty: all channels.
    channels: list[str] = Bound(default=[])
    enabled: bool = True


class WebhookSpec(Spec):
    url: str
    # Left out: the one that the hub has already.
    secret: str = ""

    @model_validator(mode="after")
    def _usable(self) -> WebhookSpec:
        check_address(self.url)
        return self


class EmailSpec(Spec):
    host: str
    port: int = Bound(default=587, ge=1, le=65535)
    security: MailSecurity = Bound(default=MailSecurity.STARTTLS, strict=False)
    username: str = ""
    # Left out: the one that the hub has already.
    password: str = ""
    sender: str
    to: list[str] = Bound(min_length=1)

    @model_validator(mode="after")
    def _usable(self) -> EmailSpec:
        for address in (self.sender, *self.to):
            if "@" not in address or any(not letter.isprintable() or letter in " ,;" for letter in address):
                raise ValueError(f"{address!r} is not an e-mail address")
        return self


class AlertChannelSpec(Spec):
    webhook: WebhookSpec | None = None
    email: EmailSpec | None = None
    give_up_after_seconds: float = Bound(default=_DAY_SECONDS, ge=0, le=_MONTH_SECONDS)

    @model_validator(mode="after")
    def _one(self) -> AlertChannelSpec:
        if (self.webhook is None) == (self.email is None):
            raise ValueError("a channel is either a webhook or an email; give one of the two")
        return self


RULE_FILE = Kind("AlertRule", AlertRuleSpec, "fleet_configs/alerts")
CHANNEL_FILE = Kind("AlertChannel", AlertChannelSpec, "fleet_configs/alerts")


class AlertRule(SQLModel, table=True):
    """A rule that somebody applied; those that the hub comes with are in builtin.py."""

    __tablename__ = "alert_rule"
    name: str = Field(primary_key=True)
    spec: AlertRuleSpec = Field(sa_type=json_of(AlertRuleSpec))
    updated_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class RuleView(SQLModel):
    name: str
    spec: AlertRuleSpec
    built_in: bool = False
    updated_at: datetime | None = None


class AlertChannel(SQLModel, table=True):
    """A channel with its secret; only ChannelView leaves the hub."""

    __tablename__ = "alert_channel"
    name: str = Field(primary_key=True)
    spec: AlertChannelSpec = Field(sa_type=json_of(AlertChannelSpec))
    updated_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class ChannelView(SQLModel):
    name: str
    spec: AlertChannelSpec
    has_secret: bool = False
    updated_at: datetime | None = None


class AlertView(SQLModel):
    id: str = Field(primary_key=True)
    rule: str = Field(index=True)
    signal: AlertSignal
    # Resource name: devices/{device}, projects/{project}/runs/{run}, rollouts/{rollout}.
    subject: str = Field(index=True)
    project: str = Field(default="", index=True)
    severity: AlertSeverity = AlertSeverity.WARNING
    state: AlertState = Field(default=AlertState.OPEN, index=True)
    message: str = ""
    next_step: str = ""
    value: float | None = None
    threshold: float | None = None
    since: datetime = Field(sa_type=UTC_TIME)
    opened_at: datetime = Field(sa_type=UTC_TIME)
    resolved_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    resolution: str = ""
    acknowledged_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    acknowledged_by: str = ""
    note: str = ""
    silenced_until: datetime | None = Field(default=None, sa_type=UTC_TIME)


class Alert(AlertView, table=True):
    # Set once a message about it has gone into the queue: its end is told to those who heard of its beginning.
    told_channels: list[str] | None = Field(default=None, sa_type=json_of(list[str]))


class Silence(SQLModel, table=True):
    id: str = Field(primary_key=True)
    rule: str = ""
    subject: str = ""
    reason: str = ""
    created_by: str = ""
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    until: datetime = Field(sa_type=UTC_TIME)


class AlertDeliveryView(DeliveryView):
    channel: str


class AlertDelivery(AlertDeliveryView, table=True):
    """One message to one channel, kept until it has arrived or was given up."""

    __tablename__ = "alert_delivery"
    alerts: list[str] = Field(default=[], sa_type=json_of(list[str]))
    # The JSON body as it was made: repeats are the same to the byte.
    body: str = ""
