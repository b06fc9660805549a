"""Which choices a subnet's digest stands for, so that what was measured of it can be used again."""

from __future__ import annotations

from sqlmodel import Field, SQLModel

from milonga_hub.db import json_of


class KnownSubnet(SQLModel, table=True):
    """One subnet that was sent to a device."""

    __tablename__ = "known_subnet"
    # Digest of space, resolution and encoding.
    subnet: str = Field(primary_key=True)
    space: str = Field(index=True)
    resolution_px: int
    encoding: list[int] = Field(sa_type=json_of(list[int]))
