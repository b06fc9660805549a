"""What an agent remembers, on disk: identity, and the state of its assignment. Versioned, written atomically."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from milonga_agent.errors import AgentError
from milonga_agent.files import write_atomically
from milonga_agent.keys import KEY
from milonga_agent.plan import Position, Shadow, State, Step, WantedFile, Wish

_log = logging.getLogger(__name__)

_FORMAT = 1
# 1 had a secret in place of a certificate.
_IDENTITY_FORMAT = 2


@dataclass(frozen=True)
class Identity:
    """Who this agent is to its hub, and where the hub is; its key and certificate are files beside it."""

    device: str
    device_type: str
    # Where machines join.
    hub: str
    # On the same host.
    device_port: int
    mqtt_host: str
    mqtt_port: int


class CareDone(NamedTuple):
    """How often this device has started anew, profiled and upgraded itself because operators wanted it."""

    restarts: int = 0
    profiles: int = 0
    # Agents from before did not keep these.
    upgrades: int = 0


@dataclass(frozen=True)
class Credentials:
    """The authority to believe, and the device's own key and certificate, as PEM."""

    authority: bytes
    key: bytes = field(repr=False)
    certificate: bytes


class Store:
    """The files of one agent's data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def identity(self, may_be_old: bool = False) -> Identity | None:
        """Return who this agent is, or None before it has enrolled; raises AgentError for what older agents kept.

        With `may_be_old`, that counts as not enrolled.
        """
        known = self._parsed("identity.json")
        if known is not None and known["format"] == 1:
            if may_be_old:
                return None
            raise AgentError(
                "this device joined with a secret, and hubs ask for certificates now; make a token on the hub (milonga"
                " tokens create), stop the agent, join again by: milonga-agent enrol --hub HOST:PORT --join-token TOKEN"
                f" --data-dir {self.folder}, and start it again; it keeps its name and what it serves"
            )
        if known is None or not self.certificate_path.exists():
            return None
        return Identity(**self._checked("identity.json", known, _IDENTITY_FORMAT))

    def name(self) -> str:
        """Return the name under which this agent joined, also in the time of secrets; "" before it has joined."""
        known = self._parsed("identity.json")
        return "" if known is None else str(known.get("device", ""))

    def keep_identity(self, identity: Identity) -> None:
        self._write("identity.json", asdict(identity), 0o600, _IDENTITY_FORMAT)

    @property
    def certificate_path(self) -> Path:
        return self.folder / "certificate.pem"

    def keep_certificate(self, certificate: str) -> None:
        """Put a certificate (PEM) of this device's key in the place of the last one."""
        write_atomically(self.certificate_path, certificate.encode("ascii"))

    @property
    def authority_path(self) -> Path:
        return self.folder / "authority.pem"

    def authority(self) -> str:
        """Return the certificate (PEM) of the authority that is pinned, empty for none."""
        return self.authority_path.read_text(encoding="ascii") if self.authority_path.exists() else ""

    def keep_authority(self, authority: str) -> None:
        write_atomically(self.authority_path, authority.encode("ascii"))

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the name and labels that this machine asked to join with, empty before it did."""
        known = self._read("request.json")
        return ("", {}) if known is None else (known["name"], known["labels"])

    def keep_request(self, name: str, labels: dict[str, str]) -> None:
        self._write("request.json", {"name": name, "labels": labels})

    def credentials(self) -> Credentials:
        """Return what connections are made with, as it is now."""
        return Credentials(*map(_pem, (self.authority_path, self.folder / KEY, self.certificate_path)))

    def state(self) -> State:
        """Return the state as last kept, or that of a new agent: the hub tells again what it wishes."""
        try:
            return self._state()
        except (AgentError, KeyError, TypeError, ValueError) as error:
            # Better to begin anew than never to start again.
            _log.error("%s cannot be read (%s); what the hub wishes is done anew", self.folder / "state.json", error)
            return State()

    def _state(self) -> State:
        known = self._read("state.json")
        if known is None:
            return State()
        step = known["position"]["step"]
        return State(
            generation=known["generation"],
            wish=_wish(known["wish"]),
            position=Position(None if step is None else Step(step), known["position"]["attempt"]),
            active=_wish(known["active"]),
            message=known["message"],
            # Agents from before did not keep these.
            previous=_wish(known.get("previous", asdict(Wish()))),
            starts=known.get("starts", 0),
        )

    def keep_state(self, state: State) -> None:
        self._write("state.json", asdict(state))

    def serve_port(self) -> int:
        """Return the port that was served on last, 0 for none: clients find the agent again after a restart."""
        try:
            known = self._read("serving.json")
            return 0 if known is None else int(known["port"])
        except (AgentError, KeyError, TypeError, ValueError) as error:
            # Clients must look where it serves now, which beats an agent that does not start.
            _log.error("%s; serving on another port", error)
            return 0

    def keep_serve_port(self, port: int) -> None:
        self._write("serving.json", {"port": port})

    def care(self) -> CareDone:
        """Return how often this device has done what operators wanted; none where that was lost."""
        try:
            known = self._read("care.json")
            return CareDone() if known is None else CareDone(*(int(known.get(name, 0)) for name in CareDone._fields))
        except (AgentError, KeyError, TypeError, ValueError) as error:
            _log.error("%s; what operators wanted is done once more", error)
            return CareDone()

    def keep_care(self, done: CareDone) -> None:
        self._write("care.json", done._asdict())

    def _read(self, name: str) -> dict[str, Any] | None:
        known = self._parsed(name)
        return None if known is None else self._checked(name, known, _FORMAT)

    def _parsed(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.exists():
            return None
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            known["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise AgentError(f"{path} is damaged: {error}; remove it and start the agent again") from error
        return dict(known)

    def _checked(self, name: str, known: dict[str, Any], format_: int) -> dict[str, Any]:
        found = known.pop("format")
        if found != format_:
            raise AgentError(
                f"{self.folder / name} was written by another version of the agent (format {found}); update the agent"
            )
        return known

    def _write(self, name: str, values: dict[str, Any], mode: int = 0o644, format_: int = _FORMAT) -> None:
        text = json.dumps({**values, "format": format_}, sort_keys=True, indent=1)
        write_atomically(self.folder / name, text.encode("utf-8"), mode)


def _pem(path: Path) -> bytes:
    """Return the file's content. gRPC ends the whole process where it is given something else than PEM."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {error.strerror}; enrol this device again") from error
    if not content.startswith(b"-----BEGIN "):
        raise AgentError(f"{path} is damaged; remove it and enrol this device again")
    return content


def _wish(known: dict[str, Any]) -> Wish:
    # Fields of a newer agent, which this one took over from, are left out.
    values = {name: known[name] for name in Wish.__dataclass_fields__ if name in known}
    shadow = values.get("shadow")
    if shadow is not None:
        values["shadow"] = Shadow(**{name: shadow[name] for name in Shadow.__dataclass_fields__ if name in shadow})
    return Wish(**{**values, "files": tuple(WantedFile(**file) for file in known["files"])})
