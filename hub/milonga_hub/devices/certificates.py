"""Which certificates were given out, for brokers that cannot ask the hub who a device is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col

from milonga_hub.authority import Issued
from milonga_hub.db import Database, utc_now
from milonga_hub.devices.models import Device, IssuedCertificate


class Certificates:
    """All certificates of devices that have not ended."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock

    @staticmethod
    def note(session: Session, device: str, key_fingerprint: str, issued: Issued) -> None:
        """Remember a certificate, in the commit that gives it out."""
        session.add(
            IssuedCertificate(
                serial=issued.serial, device=device, key_fingerprint=key_fingerprint, expires_at=issued.expires_at
            )
        )

    def revoked(self) -> list[str]:
        """Return the serials of those that nobody may use any more, and forget all that have ended."""
        same = (col(Device.name) == col(IssuedCertificate.device)) & (
            col(Device.key_fingerprint) == col(IssuedCertificate.key_fingerprint)
        )
        good = sa.exists().where(same & col(Device.revoked_at).is_(None))
        with self._database.session() as session:
            ended = sa.delete(IssuedCertificate).where(col(IssuedCertificate.expires_at) <= self._clock())
            session.connection().execute(ended)
            serials = sa.select(col(IssuedCertificate.serial)).where(~good).order_by(col(IssuedCertificate.serial))
            return list(session.connection().execute(serials).scalars())

    def unlisted(self) -> list[str]:
        """Return the devices whose certificate is from before this list began, and no longer than it is good for."""
        listed = sa.exists().where(col(IssuedCertificate.device) == col(Device.name))
        found = sa.select(col(Device.name)).where(
            ~listed, col(Device.revoked_at).is_(None), col(Device.certificate_expires_at) > self._clock()
        )
        with self._database.session() as session:
            return list(session.connection().execute(found.order_by(col(Device.name))).scalars())
