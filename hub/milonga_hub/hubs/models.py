"""What hubs of one database keep of each other."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, utc_now


class HubState(StrEnum):
    """LEADING: does what one hub does for all, and serves; SERVING: answers calls; LOST: not heard of any more."""

    LEADING = "LEADING"
    SERVING = "SERVING"
    LOST = "LOST"


class HubView(SQLModel):
    """What people see of a hub."""

    # New at each start.
    id: str = Field(primary_key=True)
    # Of its machine.
    name: str = ""
    version: str = ""
    # The newest revision of the tables that it knows.
    revision: str = ""
    # Where it listens itself, whatever a load balancer before it is called.
    http: str = ""
    grpc: str = ""
    device: str = ""
    started_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    # By the database's clock.
    seen_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class HubMember(HubView, table=True):
    __tablename__ = "hub_member"
    # Which data folder it has, and which broker, "" for its own: those of all hubs have to be the same.
    folder: str = ""
    broker: str = ""


class Lease(SQLModel, table=True):
    """Who does what only one may do, until when by the database's clock, and for the how-manieth time somebody else."""

    __tablename__ = "lease"
    name: str = Field(primary_key=True)
    holder: str = ""
    number: int = 0
    expires_at: datetime = Field(sa_type=UTC_TIME)
    # None of one that was taken by a version which does not write it.
    taken_at: datetime | None = Field(default=None, sa_type=UTC_TIME)


class HubMessage(SQLModel, table=True):
    """Something that one hub says to another about a device whose stream the other has; deleted when it is read."""

    __tablename__ = "hub_message"
    id: int | None = Field(default=None, primary_key=True)
    hub: str
    sender: str
    device: str
    kind: str
    # Of the question.
    key: str = ""
    digests: str = ""
    body: bytes = Field(default=b"", sa_type=sa.LargeBinary)
    sent_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
