"""Commands whose output nobody reads to its end, as in `... | head -1`: they end quietly, as other programs do."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

Main = TypeVar("Main", bound=Callable[..., int])

# What a shell sees of a program that SIGPIPE ended. Python ignores that signal, for the sake of sockets.
_ENDED_BY_SIGPIPE = 141


def quiet_when_unread(main: Main) -> Main:
    """Return the main function of a command, which ends without a word where the reader of its output has gone."""

    @wraps(main)
    def quiet(*arguments: Any) -> int:
        try:
            try:
                return main(*arguments)
            finally:
                # Else Python would find out while it ends, and print a trace.
                sys.stdout.flush()
        except BrokenPipeError:
            if not _unread(sys.stdout.fileno()):
                raise
            # What is still in the buffer goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _ENDED_BY_SIGPIPE

    return cast(Main, quiet)


def _unread(descriptor: int) -> bool:
    """Return whether it is a pipe that nobody reads: other pipes and sockets break as well."""
    asked = select.poll()
    asked.register(descriptor, 0)
    return bool(asked.poll(0))
