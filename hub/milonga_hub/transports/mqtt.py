"""The embedded MQTT broker: nothing else to install, devices show their certificates, and each keeps to its own topics.

amqtt is pure Python; with the hub's own part it takes some 1,700 windows of telemetry per CPU second, which is a fleet of 50,000 devices at
one every 30 seconds. brokers.py says which other brokers may take its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import ssl
from asyncio import sslproto
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action
from amqtt.errors import BrokerError, MQTTError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from milonga_hub.authority import HUB_CLIENT, Authority, Presented, presented
from milonga_hub.devices.models import Device
from milonga_hub.errors import FailedPrecondition, InvalidInput, MilongaError, Unauthenticated
from milonga_hub.telemetry.endpoint import BrokerEndpoint
from milonga_hub.telemetry.intake import MAX_MESSAGE_BYTES
from milonga_hub.telemetry.messages import TOPIC_ROOT
from milonga_hub.transports.topics import DOWNWARD, UPWARD

_log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
_TLS_BUFFER_BYTES = 16 * 1024


class Gate:
    """Decides who a connection is, and which topics are theirs."""

    def __init__(self, authenticate: Callable[[Presented], Device], hub_key: str) -> None:
        """`authenticate` raises a MilongaError for anyone it does not know; `hub_key` is the hub's own client's."""
        self._authenticate = authenticate
        self._hub_key = hub_key

    def user_of(self, tls: ssl.SSLObject | None, address: str) -> str:
        """Return whose certificate the connection showed, empty for nobody's. What CONNECT says of itself is not asked."""
        certificate = tls.getpeercert(binary_form=True) if tls else None
        try:
            if certificate is None:
                raise Unauthenticated("it came without a certificate")
            shown = presented(certificate)
            if shown.key_fingerprint == self._hub_key:
                return HUB_CLIENT
            return self._authenticate(shown).name
        except MilongaError as error:
            _log.warning("MQTT: refused %s: %s", address, error)
            return ""

    @staticmethod
    def permits(username: str, topic: str, action: Action) -> bool:
        """Devices publish under their own name only, and hear only what is meant for them."""
        if username == HUB_CLIENT:
            return True
        leaves = UPWARD if action == Action.PUBLISH else DOWNWARD
        return topic in {f"{TOPIC_ROOT}/{username}/{leaf}" for leaf in leaves}


class GateKeeper(BaseAuthPlugin):  # type: ignore[misc]
    """amqtt's hook for the gate's first question, which `_Broker` has asked when it knew the connection."""

    async def authenticate(self, *, session: Session) -> bool | None:
        return bool(session.username)


class TopicKeeper(BaseTopicPlugin):  # type: ignore[misc]
    """amqtt's hook for the gate's second question."""

    @dataclass
    class Config:
        gate: Any = None

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        if session is None or not session.username or not topic or action is None:
            return False
        gate: Gate = self.config.gate
        return gate.permits(session.username, topic, action)


class _Subscriptions(dict[str, list[tuple[Session, int]]]):
    """Topics with their subscribers; amqtt walks over them while others come and go."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.keys()))

    def items(self) -> Any:
        return list(super().items())


class _BoundedReader(StreamReaderAdapter):  # type: ignore[misc]
    """Reads from one client, and ends the connection instead of taking in a message of up to 256 MB."""

    def __init__(self, reader: asyncio.StreamReader, address: str) -> None:
        super().__init__(reader)
        self._address = address

    async def read(self, n: int = -1) -> bytes:
        if n > MAX_MESSAGE_BYTES:
            _log.warning("MQTT: refused a message of %d bytes from %s", n, self._address)
            raise InvalidInput(f"a message has {MAX_MESSAGE_BYTES} bytes at most")
        return bytes(await super().read(n))


class _Broker(Broker):  # type: ignore[misc]
    """amqtt's broker with six of its habits mended.

    - It lets in who shows no certificate, and says nothing of handshakes that fail. Here both end in the log.
    - It looks up and may end the old session of a client id before it asks who it is, so that a stranger could put a
      device off line or take over its session. Here the certificate comes first, and client ids of different users
      never meet.
    - It keeps messages for absent clients in memory without a limit. Here all sessions are clean: devices keep what has
      not been acknowledged themselves.
    - It takes in messages of any size. Here one that is too large ends its connection.
    - It fails where a client comes or goes while it walks over the subscriptions.
    - It publishes last wills and retained messages without asking who may write or read the topic.
    """

    def __init__(self, config: dict[str, Any], gate: Gate, tls: ssl.SSLContext) -> None:
        super().__init__(config)
        self._subscriptions: dict[str, list[tuple[Session, int]]] = _Subscriptions()
        self._gate = gate
        self._tls = tls

    def _create_ssl_context(self, listener: Any) -> ssl.SSLContext:
        return self._tls

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        host, port, *_ = writer.get_extra_info("peername") or ("?", 0)
        bounded = _BoundedReader(reader, f"{host}:{port}")
        await self._client_connected(listener_name, bounded, StreamWriterAdapter(writer))

    async def _initialize_client_session(
        self, reader: Any, writer: Any, remote_address: str, remote_port: int
    ) -> tuple[Any, Any]:
        try:
            handler, session = await BrokerProtocolHandler.init_from_connect(reader, writer, self.plugins_manager)
        except Exception as error:
            with contextlib.suppress(Exception):
                await writer.close()
            raise MQTTError(f"no usable CONNECT from {remote_address}:{remote_port}: {error}") from error
        session.username = self._gate.user_of(writer.get_ssl_info(), f"{remote_address}:{remote_port}")
        if not await self._admitted(session):
            await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
            await writer.close()
            raise MQTTError(f"{session.username!r} at {remote_address}:{remote_port} is not let in")
        session.client_id = f"{session.username}/{session.client_id}"
        session.clean_session = True
        session.parent = 0
        await self.end(session.client_id)
        return handler, session

    async def _admitted(self, session: Any) -> bool:
        if not await self._authenticate(session, self.listeners_config["default"]):
            return False
        if session.will_flag and not await self._topic_filtering(session, session.will_topic, Action.PUBLISH):
            _log.warning("MQTT: refused %r: its last will is for %r", session.username, session.will_topic)
            return False
        return True

    async def end(self, client_id: str) -> None:
        """End the connection of this client id, if there is one."""
        _, handler = self._sessions.get(client_id, (None, None))
        if handler is not None:
            await handler.handle_connection_closed()
            await self._cleanup_session(client_id)

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Any) -> None:
        if await self._topic_filtering(session, subscription[0], Action.SUBSCRIBE):
            await super()._publish_retained_messages_for_subscription(subscription, session)


class _Handshake(ssl.SSLObject):
    """The server's side of one connection; asyncio keeps failed handshakes to itself."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            _log.warning("MQTT: refused a connection: %s", error.reason or error)
            raise


class EmbeddedBroker:
    """A broker inside the hub's event loop: `endpoint = await broker.start(host, port)` ... `await broker.stop()`."""

    name = "embedded"

    def __init__(self, authority: Authority, authenticate: Callable[[Presented], Device]) -> None:
        self._authority = authority
        self._client, hub_key = authority.own_client()
        self._gate = Gate(authenticate, hub_key)
        self._broker: _Broker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0, names: Sequence[str] = ()) -> BrokerEndpoint:
        """Listen, and return where, with the certificate of the hub's own clients. Port 0 takes a free one."""
        name = __name__
        config = {
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}", "ssl": True}},
            "plugins": {
                f"{name}.GateKeeper": {},
                f"{name}.TopicKeeper": {"gate": self._gate},
            },
        }
        # asyncio would fill 256 KiB for each connection to read into; a record of TLS has 16 at most.
        sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES
        broker = _Broker(config, self._gate, self._tls(names))
        _quieten_amqtt()
        try:
            await broker.start()
        except BrokerError as error:
            raise _cannot_listen(error, host, port) from error
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        bound = broker._servers["default"].instance.sockets[0].getsockname()[1]
        return BrokerEndpoint(host=host, port=bound, tls=self._client)

    def disconnect(self, device: str) -> None:
        """End all connections of the device. May be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._disconnect, device)

    def _disconnect(self, device: str) -> None:
        broker = self._broker
        if broker is None:
            return
        for client_id, (session, _) in list(broker.sessions.items()):
            if session.username == device:
                _log.info("MQTT: disconnecting %s", device)
                task = asyncio.ensure_future(broker.end(client_id))
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    def _tls(self, names: Sequence[str]) -> ssl.SSLContext:
        identity = self._authority.server(names)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=identity.authority.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslobject_class = _Handshake
        self._authority.load(context, identity.key, identity.chain)
        return context

    async def stop(self) -> None:
        """Close all connections. Nothing is lost: what was not acknowledged is sent again."""
        broker, self._broker = self._broker, None
        if broker is None:
            return
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await broker.shutdown()
        except TimeoutError:
            _log.warning("MQTT: the broker did not close within %.0f s; going on without it", _STOP_SECONDS)

    @property
    def session_count(self) -> int:
        """How many clients are connected, the hub's own included."""
        sessions = self._broker.sessions.values() if self._broker else ()
        return sum(session.transitions.state == "connected" for session, _ in sessions)


def _quieten_amqtt() -> None:
    """amqtt tells of every connection and prints tracebacks for refused ones; keep what is news to an operator."""
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    # Whatever keeps it from starting is raised too.
    logging.getLogger("amqtt.broker").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.ERROR)


def _cannot_listen(error: BrokerError, host: str, port: int) -> MilongaError:
    cause = error.__cause__
    return cannot_listen(cause if isinstance(cause, OSError) else error, host, port)


def cannot_listen(cause: Exception, host: str, port: int) -> MilongaError:
    """Return what to tell who started the hub."""
    if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
        return FailedPrecondition(
            f"port {port} on {host} is taken by another program; choose another with --mqtt-port, or 0 for a free one"
        )
    return FailedPrecondition(f"cannot listen for MQTT on {host}:{port}: {cause}; choose another port with --mqtt-port")
