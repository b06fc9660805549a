"""Who may come in: tokens, approval, certificates, and how an operator shuts a device out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, delete, func, select

from milonga_hub.authority import Authority, Presented, key_fingerprint, requested_key
from milonga_hub.commits import Change, Commits
from milonga_hub.db import Database
from milonga_hub.devices import rules
from milonga_hub.devices.certificates import Certificates
from milonga_hub.devices.models import Device, DeviceState, Inventory, JoinRequest, JoinRequestState
from milonga_hub.devices.tokens import JoinTokens
from milonga_hub.devices.values import Enrolment, Identity, NewCertificate
from milonga_hub.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from milonga_hub.events import EventBus
from milonga_hub.paging import page
from milonga_hub.settings import Settings

_log = logging.getLogger(__name__)

# As many as a person may look through. Asking costs nothing, so that strangers could fill the disk.
_MOST_REQUESTS = 100
# Machines that wait ask every few seconds.
_FORGOTTEN = timedelta(days=1)
_REFUSED_FORGOTTEN = timedelta(days=30)

# Made once; so is what the database makes of them.
_NAMED = sa.select(col(Device.name)).where(col(Device.name) == sa.bindparam("device"))
_FORGET_REQUEST = sa.delete(JoinRequest).where(col(JoinRequest.id) == sa.bindparam("request"))

_Requests = list[JoinRequest]


class Admission:
    """Lets devices in, and keeps them out. `on_shut_out` hears the name of every device whose connections must end."""

    def __init__(
        self,
        database: Database,
        commits: Commits,
        events: EventBus,
        settings: Settings,
        clock: Callable[[], datetime],
        authority: Authority,
        tokens: JoinTokens,
        type_of: Callable[[Session, Inventory, bool], str],
    ) -> None:
        self._database = database
        self._commits = commits
        self._events = events
        self._lifetime = timedelta(days=settings.certificate_days)
        self._absence = timedelta(days=settings.absence_days)
        self._clock = clock
        self._authority = authority
        self._tokens = tokens
        self._type_of = type_of
        # For transfers under way, which cannot ask the database for every chunk.
        self._shut_out: set[str] = set()
        # Raises QuotaExceeded where a new device would be too many for a project.
        self.may_join: Callable[[Device], None] = lambda device: None

    def enrol(self, enrolment: Enrolment) -> Identity:
        """Return a certificate for a new device, for one that comes back with its key, or none while an operator is asked.

        Raises Unauthenticated for a token that lets nobody in, AlreadyExists for a name that another key has, and
        PermissionDenied for a device or machine that an operator turned away.
        """
        return self._admit(enrolment, *self._commits.now(self._enrolment(enrolment)))

    async def join(self, enrolment: Enrolment) -> Identity:
        """As `enrol`, in one commit with others that join at the same time."""
        return self._admit(enrolment, *await self._commits.soon(self._enrolment(enrolment)))

    def _enrolment(self, enrolment: Enrolment) -> Change[tuple[Identity, Device | None]]:
        rules.check_name(enrolment.device)
        public_key = requested_key(enrolment.certificate_request)
        key = key_fingerprint(public_key)

        def change(session: Session) -> tuple[Identity, Device | None]:
            device = self._known(session, enrolment.device)
            if device is not None:
                self._check(device, key)
            if device is None or not self._may_return(device):
                labels = self._admitted(session, enrolment, key)
                if labels is None:
                    return Identity(enrolment.device, key), None
                device = device or self._new(session, enrolment, {**labels, **enrolment.labels})
                device.key_fingerprint = key
            issued = self._authority.certify(public_key, device.name, self._lifetime)
            device.certificate_expires_at = issued.expires_at
            session.add(device)
            Certificates.note(session, device.name, key, issued)
            return Identity(device.name, key, device.device_type, issued.certificate), device

        return change

    @staticmethod
    def _known(session: Session, name: str) -> Device | None:
        """Return the device of this name; that there is none, as with most that enrol, is asked in the cheapest way."""
        named = session.connection().execute(_NAMED, {"device": name}).first()
        return None if named is None else session.get(Device, name)

    def _admit(self, enrolment: Enrolment, identity: Identity, device: Device | None) -> Identity:
        if device is not None:
            self._shut_out.discard(device.name)
            _log.info(
                "certificate for %s until %s, to %s",
                device.name,
                device.certificate_expires_at,
                enrolment.address or "it",
            )
            self._events.publish(f"devices/{device.name}", device)
        return identity

    def renew(self, name: str, request: bytes) -> NewCertificate:
        """Return a new certificate for the key of a connected device."""
        public_key = requested_key(request)
        with self._database.session() as session:
            device = session.get(Device, name)
            if device is None:
                raise Unauthenticated(f"device {name} was deleted; enrol it again")
            key = key_fingerprint(public_key)
            self._check(device, key)
            issued = self._authority.certify(public_key, name, self._lifetime)
            device.certificate_expires_at = issued.expires_at
            session.add(device)
            Certificates.note(session, name, key, issued)
        _log.info("certificate for %s renewed until %s", name, issued.expires_at)
        self._events.publish(f"devices/{name}", device)
        return NewCertificate(issued.certificate, self.renew_after_seconds(device))

    def renew_after_seconds(self, device: Device) -> float:
        """Return when the device should ask for a new certificate, from now."""
        if device.certificate_expires_at is None:
            return 0.0
        left = device.certificate_expires_at - self._clock()
        return rules.renew_after(self._lifetime, left, rules.jitter(device.name)).total_seconds()

    def authenticate(self, shown: Presented) -> Device:
        """Return the device whose certificate it is. Raises Unauthenticated for all others, with the way out."""
        with self._database.session() as session:
            device = session.get(Device, shown.device) if shown.device else None
        if device is None:
            raise Unauthenticated(f"the hub knows no device {shown.device!r}; enrol it again with a new token")
        if device.revoked_at is not None:
            raise Unauthenticated(_revoked(device))
        if device.key_fingerprint != shown.key_fingerprint:
            raise Unauthenticated(
                f"device {device.name} has another key by now; enrol this machine again, with a name of its own"
            )
        return device

    def is_shut_out(self, device: str) -> bool:
        """Say whether the device was revoked or deleted since this hub started, without asking the database."""
        return device in self._shut_out

    def shut_out(self, device: str) -> None:
        self._shut_out.add(device)

    def revoke(self, name: str) -> Device:
        """Mark the device as turned away; the caller ends its connections."""
        with self._database.session() as session:
            device = session.get(Device, name)
            if device is None:
                raise NotFound(f"no device {name!r}; see: milonga devices list")
            device.revoked_at = device.revoked_at or self._clock()
            device.state = DeviceState.REVOKED
            session.add(device)
        self.shut_out(device.name)
        _log.warning("device %s is revoked", device.name)
        self._events.publish(f"devices/{device.name}", device)
        return device

    # Requests to join without a token

    def requests(self, page_size: int = 0, page_token: str = "") -> tuple[_Requests, str]:
        with self._database.session() as session:
            return page(session, select(JoinRequest), col(JoinRequest.id), page_size, page_token)

    def decide(self, id_or_name: str, state: JoinRequestState) -> JoinRequest:
        """Approve or refuse a request, named by its id, or by the wanted name where only one request has it."""
        wanted = id_or_name.removeprefix("join_requests/")
        with self._database.session() as session:
            matching = (col(JoinRequest.id) == wanted) | (col(JoinRequest.device) == wanted)
            found = session.exec(select(JoinRequest).where(matching)).all()
            if not found:
                raise NotFound(f"no machine asks to join as {wanted!r}; see: milonga devices pending")
            if len(found) > 1:
                ids = ", ".join(one.id for one in found)
                raise FailedPrecondition(f"several machines ask to join as {wanted}: name one by its id: {ids}")
            request = found[0]
            request.state = state
            session.add(request)
        _log.info("join request %s of %s (%s): %s", request.id, request.device, request.key_fingerprint, state.lower())
        self._events.publish(f"join_requests/{request.id}", request)
        return request

    def _check(self, device: Device, key: str) -> None:
        if device.revoked_at is not None:
            raise PermissionDenied(_revoked(device))
        if device.key_fingerprint and device.key_fingerprint != key:
            raise AlreadyExists(
                f"another device has the name {device.name}; choose another --name,"
                f" or delete it: milonga devices delete {device.name}"
            )

    def _may_return(self, device: Device) -> bool:
        return bool(device.key_fingerprint) and rules.may_return(
            device.certificate_expires_at, self._absence, self._clock()
        )

    def _admitted(self, session: Session, enrolment: Enrolment, key: str) -> dict[str, str] | None:
        """Return the labels that come with admission, None while an operator has not decided."""
        rules.check_labels(enrolment.labels)
        id_ = "j-" + key.removeprefix("sha256:")[:12]
        if enrolment.join_token:
            labels = self._tokens.take(session, enrolment.join_token)
            session.connection().execute(_FORGET_REQUEST, {"request": id_})
            return labels
        request = session.get(JoinRequest, id_)
        if request is None:
            request = self._new_request(session, id_, enrolment, key)
        elif request.state is JoinRequestState.APPROVED and request.device == enrolment.device:
            session.delete(request)
            return {}
        request.asked_at = self._clock()
        if request.state is JoinRequestState.APPROVED:
            request.device, request.state = enrolment.device, JoinRequestState.PENDING
        session.add(request)
        session.flush()
        if request.state is JoinRequestState.REFUSED:
            raise PermissionDenied(
                f"an operator refused this machine; on the hub: milonga devices approve {id_}, or give it a join token"
            )
        return None

    def _new_request(self, session: Session, id_: str, enrolment: Enrolment, key: str) -> JoinRequest:
        now = self._clock()
        refused = col(JoinRequest.state) == JoinRequestState.REFUSED
        session.exec(delete(JoinRequest).where(col(JoinRequest.asked_at) < now - _FORGOTTEN, ~refused))
        session.exec(delete(JoinRequest).where(col(JoinRequest.asked_at) < now - _REFUSED_FORGOTTEN))
        if session.exec(select(func.count()).select_from(JoinRequest)).one() >= _MOST_REQUESTS:
            raise ResourceExhausted(
                f"{_MOST_REQUESTS} machines wait for an operator already; see: milonga devices pending,"
                " or join with a token: milonga tokens create"
            )
        request = JoinRequest(
            id=id_,
            device=enrolment.device,
            key_fingerprint=key,
            inventory=enrolment.inventory,
            labels=enrolment.labels,
            simulated=enrolment.simulated,
            agent_version=enrolment.agent_version,
            address=enrolment.address,
            requested_at=now,
            asked_at=now,
        )
        _log.info("%s asks to join as %s (%s); see: milonga devices pending", enrolment.address, request.device, key)
        self._events.publish(f"join_requests/{id_}", request)
        return request

    def _new(self, session: Session, enrolment: Enrolment, labels: Mapping[str, str]) -> Device:
        rules.check_labels(labels)
        device = Device(
            name=enrolment.device,
            device_type=self._type_of(session, enrolment.inventory, enrolment.simulated),
            labels=dict(labels),
            simulated=enrolment.simulated,
            inventory=enrolment.inventory,
            agent_version=enrolment.agent_version,
            enrolled_at=self._clock(),
        )
        self.may_join(device)
        return device


def _revoked(device: Device) -> str:
    return (
        f"device {device.name} was revoked on {device.revoked_at:%Y-%m-%d %H:%M} UTC; to let it join again, on the hub:"
        f" milonga devices delete {device.name}, then enrol it"
    )
