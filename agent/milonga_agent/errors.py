"""What can go wrong on a device. Messages say what to do next; each kind has an exit code of its own."""

from __future__ import annotations


class AgentError(Exception):
    """Base of all errors of the agent; the message is for people."""

    exit_code = 1


class Refused(AgentError):
    """The hub does not want this device: a wrong token, a name that is taken, a device that was revoked."""

    exit_code = 3


class HubUnreachable(AgentError):
    """Nobody answers at the hub's address."""

    exit_code = 4


class InUse(AgentError):
    """A port or the data folder belongs to another process."""

    exit_code = 5


class NeighbourFailed(AgentError):
    """Another device did not serve what the hub said it may have; `lasts`: it need not be asked again soon."""

    def __init__(self, message: str, lasts: bool = True) -> None:
        super().__init__(message)
        self.lasts = lasts


class DiskFull(AgentError):
    """There is no room for what was to be written."""

    exit_code = 6


class EngineMissing(AgentError):
    """The engine that a bundle needs is not installed here."""

    exit_code = 7


class BadBundle(AgentError):
    """A bundle, or a file of one, is not what it should be."""


class Untrusted(BadBundle):
    """A bundle for which the signatures that this device demands are missing, old or wrong."""


class Superseded(AgentError):
    """What was under way is wanted no more: the hub wishes something newer."""


class BadRequest(AgentError):
    """An inference request that cannot be answered."""


class Waiting(AgentError):
    """An operator has not decided yet whether this machine may join."""

    exit_code = 8
