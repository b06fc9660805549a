"""What mosquitto is told: who may come in, which topics are whose, and which certificates are of no use any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from milonga_compiler.files import write_atomically

from milonga_hub.authority import HUB_CLIENT, Authority, write_secret
from milonga_hub.telemetry.intake import MAX_MESSAGE_BYTES
from milonga_hub.telemetry.messages import TOPIC_ROOT
from milonga_hub.transports.topics import DOWNWARD, UPWARD

# What waits for the hub while it writes to its disk, of all devices together.
_MOST_WAITING = 100_000
_MOST_IN_FLIGHT = 1_000


@dataclass(frozen=True)
class Files:
    """Where a broker's files are. They name each other by these paths."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "mosquitto.conf"

    @property
    def topics(self) -> Path:
        return self.folder / "topics.acl"

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"

    @property
    def chain(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    @property
    def revoked(self) -> Path:
        return self.folder / "revoked.pem"


def config_text(files: Files, host: str, port: int, user: str = "") -> str:
    """Return mosquitto.conf (2.0): TLS with a certificate of the hub's authority for all, whose common name is who it is.

    `host` may be empty for all addresses; `user` is whom mosquitto becomes where root starts it.
    """
    return "\n".join(
        (
            "# Written by milonga. Devices and the hub show certificates of the hub's authority.",
            "persistence false",
            "log_dest stderr",
            *(f"log_type {kind}" for kind in ("error", "warning", "notice")),
            "log_timestamp false",
            "connection_messages false",
            "set_tcp_nodelay true",
            # Devices keep what is not acknowledged themselves; nobody's session outlives its connection for long.
            "persistent_client_expiration 1h",
            f"max_packet_size {MAX_MESSAGE_BYTES}",
            f"max_inflight_messages {_MOST_IN_FLIGHT}",
            f"max_queued_messages {_MOST_WAITING}",
            f"acl_file {files.topics}",
            *([f"user {user}"] if user else []),
            "",
            f"listener {port} {host}".rstrip(),
            "allow_anonymous false",
            f"cafile {files.authority}",
            f"certfile {files.chain}",
            f"keyfile {files.key}",
            f"crlfile {files.revoked}",
            "require_certificate true",
            "use_identity_as_username true",
            # Else a device could end the connection of another by taking its client id.
            "use_username_as_clientid true",
            "tls_version tlsv1.2",
            "",
        )
    )


def topics_text(unlisted: Iterable[str] = ()) -> str:
    """Return the ACL: a device writes and reads under its own name alone, the hub everything.

    `unlisted` names devices whose certificates are from before the common name was the device's name alone.
    """
    lines = [f"user {HUB_CLIENT}", f"topic readwrite {TOPIC_ROOT}/#", ""]
    lines += [f"pattern write {TOPIC_ROOT}/%u/{leaf}" for leaf in UPWARD]
    lines += [f"pattern read {TOPIC_ROOT}/%u/{leaf}" for leaf in DOWNWARD]
    for device in unlisted:
        lines += ["", f"user devices/{device}"]
        lines += [f"topic write {TOPIC_ROOT}/{device}/{leaf}" for leaf in UPWARD]
        lines += [f"topic read {TOPIC_ROOT}/{device}/{leaf}" for leaf in DOWNWARD]
    return "\n".join((*lines, ""))


def write_identity(files: Files, authority: Authority, names: Sequence[str]) -> None:
    """Write a fresh server key with its chain, made out to these names, and the authority that clients must be of."""
    files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    identity = authority.server(names)
    write_secret(files.key, identity.key)
    write_atomically(files.chain, identity.chain.decode())
    write_atomically(files.authority, identity.authority.decode())


def write_admission(files: Files, authority: Authority, revoked: Iterable[str], unlisted: Iterable[str]) -> None:
    """Write who may come in and what is whose; mosquitto reads both again at SIGHUP."""
    write_atomically(files.topics, topics_text(unlisted))
    write_atomically(files.revoked, authority.revocations(revoked).decode())
