"""Join a hub: know it by its fingerprint, have the device's key signed, and keep who this device is."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from milonga.pinning import NotPinned, authority_of, fingerprint, pin_of
from milonga.v1 import agent_pb2

import milonga_agent
from milonga_agent.errors import HubUnreachable, Refused, Waiting
from milonga_agent.hub import Enroller
from milonga_agent.keys import make_request
from milonga_agent.state import Identity, Store

_log = logging.getLogger(__name__)

# A person decides; a hundred machines that wait are ten questions a second.
_ASK_AGAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Joining:
    """What the operator says about the hub, and what this machine says of itself."""

    hub: str
    # Empty for that of the machine.
    name: str
    inventory: Callable[[], Awaitable[Any]]
    join_token: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    simulated: bool = False
    # What the hub is known by, where no token says it.
    fingerprint: str = ""
    trust_first: bool = False
    # Called when this device has joined, before it says so to itself.
    joined: Callable[[], None] = lambda: None


async def identity(joining: Joining, store: Store) -> Identity:
    """Return this device's identity, enrolling first where it has none. Raises Refused, Waiting or HubUnreachable."""
    known = store.identity(may_be_old=bool(joining.join_token))
    if known is None:
        return await enrol(_as_asked_before(joining, store), store)
    if known.hub == joining.hub:
        return known
    if joining.join_token:
        return await enrol(joining, store)
    # The hub moved, or is reached by another name; the identity stays good, and so does the authority that it must show.
    host = joining.hub.rpartition(":")[0]
    moved = replace(known, hub=joining.hub, mqtt_host=host)
    store.keep_identity(moved)
    return moved


async def enrol(joining: Joining, store: Store, *, again: bool = False) -> Identity:
    """Ask the hub for a certificate, to join it or, `again`, to stay with it. Raises Refused, Waiting or HubUnreachable."""
    joining = replace(joining, name=joining.name or store.name() or default_name())
    authority = await _pinned(joining, store)
    request = await make_request(store.folder)
    inventory = await joining.inventory()
    hub = Enroller(joining.hub, authority)
    try:
        answer = await hub.enrol(
            agent_pb2.EnrolRequest(
                # Only the hub's own part of the token: the rest is for this side.
                join_token=joining.join_token.partition(".")[0],
                device=joining.name,
                inventory=inventory,
                agent_version=milonga_agent.__version__,
                simulated=joining.simulated,
                labels=joining.labels,
                certificate_request=request,
            )
        )
    finally:
        await hub.close()
    store.keep_authority(authority)
    if not answer.certificate:
        store.keep_request(joining.name, joining.labels)
        raise Waiting(
            f"waiting for an operator; on the hub: milonga devices approve {joining.name}"
            f" (this machine's key is {answer.key_fingerprint})"
        )
    found = identity_of(answer, joining.hub)
    if not again:
        joining.joined()
    store.keep_certificate(answer.certificate)
    store.keep_identity(found)
    _log.info("enrolled at %s as %s, a %s", found.hub, found.device, found.device_type)
    return found


def identity_of(answer: agent_pb2.EnrolResponse, hub: str) -> Identity:
    """Return who the hub at this address says that the device is."""
    host = hub.rpartition(":")[0]
    return Identity(
        device=answer.device,
        device_type=answer.device_type,
        hub=hub,
        device_port=answer.device_port,
        # A hub that listens everywhere is reached where it answered just now.
        mqtt_host=host if answer.mqtt_host in ("", "0.0.0.0", "::") else answer.mqtt_host,  # noqa: S104
        mqtt_port=answer.mqtt_port,
    )


def default_name() -> str:
    """Return the machine's host name as far as a device may have it."""
    return re.sub(r"[^a-z0-9-]+", "-", os.uname().nodename.lower()).strip("-")[:63]


def _as_asked_before(joining: Joining, store: Store) -> Joining:
    """Return what an operator is deciding on, where nothing else is said: it is asked again in the same words."""
    name, labels = store.request()
    return replace(joining, name=joining.name or name, labels=joining.labels or labels)


async def patiently(attempt: Callable[[], Awaitable[Identity]], wait: Callable[[int], float]) -> Identity:
    """Try until the hub answers and an operator agrees; `wait` gives seconds by failures so far. Raises Refused."""
    count = 0
    while True:
        try:
            return await attempt()
        except Waiting as waiting:
            seconds = _ASK_AGAIN_SECONDS * random.uniform(0.5, 1.0)
            if count == 0:
                _log.info("%s", waiting)
            count = 1
        except HubUnreachable as error:
            count += 1
            seconds = wait(count)
            _log.warning("%s; trying again in %.1f s", error, seconds)
        await asyncio.sleep(seconds)


async def _pinned(joining: Joining, store: Store) -> str:
    """Return the authority (PEM) that the hub must show. Raises Refused where nothing says which."""
    wanted = pin_of(joining.join_token) or joining.fingerprint
    kept = store.authority()
    if kept and (not wanted or fingerprint(_der(kept)) == wanted):
        return kept
    if not wanted and joining.join_token:
        raise Refused(
            "the join token lacks the hub's fingerprint, which is behind its dot; copy the token whole, or make a new"
            " one: milonga tokens create"
        )
    if not wanted and not joining.trust_first:
        raise Refused(
            "this device has not joined a hub yet, and nothing says which hub to believe; make a token on the hub"
            " (milonga tokens create) and give it with --join-token or as MILONGA_JOIN_TOKEN, or give the hub's"
            " --fingerprint and let an operator approve"
        )
    host, _, port = joining.hub.rpartition(":")
    try:
        authority = await asyncio.get_running_loop().run_in_executor(
            None, authority_of, host.strip("[]"), int(port), wanted
        )
    except NotPinned as error:
        raise Refused(str(error)) from error
    except OSError as error:
        raise HubUnreachable(
            f"no hub answers at {joining.hub}: {error.strerror or error}; check the address, and that `milonga up` runs"
        ) from error
    if not wanted:
        _log.warning("believing the hub at %s unseen: %s", joining.hub, fingerprint(_der(authority)))
    return authority


def _der(pem: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem)
