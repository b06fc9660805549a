"""Why a tracking server was not told something."""

from __future__ import annotations


class Away(Exception):
    """The server does not answer, or not now: everything waits for it."""


class Refused(Exception):
    """The server will not take this, however often it is told."""
