"""What an agent remembers, on disk: identity, and the state of its assignment. Versioned, written atomically."""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from milonga_agent.errors import AgentError
from milonga_agent.files import write_atomically
from milonga_agent.plan import Position, State, Step, WantedFile, Wish

_log = logging.getLogger(__name__)

_FORMAT = 1
_ENROLMENT_KEY_BYTES = 32


@dataclass(frozen=True)
class Identity:
    """Who this agent is to its hub. The secret is never logged."""

    device: str
    secret: str
    device_type: str
    hub: str
    mqtt_host: str
    mqtt_port: int


class Store:
    """The files of one agent's data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def enrolment_key(self) -> bytes:
        """Return the key that makes enrolling safe to repeat; it is made once and kept."""
        path = self.folder / "enrolment.key"
        if not path.exists():
            write_atomically(path, secrets.token_bytes(_ENROLMENT_KEY_BYTES), 0o600)
        return path.read_bytes()

    def identity(self) -> Identity | None:
        """Return who this agent is, or None before it has enrolled."""
        known = self._read("identity.json")
        return None if known is None else Identity(**known)

    def keep_identity(self, identity: Identity) -> None:
        self._write("identity.json", asdict(identity), 0o600)

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
        known = self._read("serving.json")
        return 0 if known is None else int(known["port"])

    def keep_serve_port(self, port: int) -> None:
        self._write("serving.json", {"port": port})

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.exists():
            return None
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            format_ = known.pop("format")
        except (ValueError, KeyError, AttributeError) as error:
            raise AgentError(f"{path} is damaged: {error}; remove it and start the agent again") from error
        if format_ != _FORMAT:
            raise AgentError(f"{path} was written by another version of the agent (format {format_}); update the agent")
        return dict(known)

    def _write(self, name: str, values: dict[str, Any], mode: int = 0o644) -> None:
        text = json.dumps({**values, "format": _FORMAT}, sort_keys=True, indent=1)
        write_atomically(self.folder / name, text.encode("utf-8"), mode)


def _wish(known: dict[str, Any]) -> Wish:
    # Fields of a newer agent, which this one took over from, are left out.
    values = {name: known[name] for name in Wish.__dataclass_fields__ if name in known}
    return Wish(**{**values, "files": tuple(WantedFile(**file) for file in known["files"])})
