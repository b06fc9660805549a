"""The errors that services raise. Transports translate them in one table each; messages say what to do next."""

from __future__ import annotations


class MilongaError(Exception):
    """Base of all domain errors. The message is shown to people as it is."""


class InvalidInput(MilongaError):
    """What was sent cannot be used."""


class NotFound(MilongaError):
    """The named thing does not exist."""


class AlreadyExists(MilongaError):
    """The name is taken by something else."""


class FailedPrecondition(MilongaError):
    """The thing is not in a state that allows this."""


class Unauthenticated(MilongaError):
    """The caller did not prove who it is."""


class PermissionDenied(MilongaError):
    """The caller is known and may not do this."""


class ResourceExhausted(MilongaError):
    """A disk, quota or limit is full."""


class TooOften(ResourceExhausted):
    """The caller has to wait before the next try."""
