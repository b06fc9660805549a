"""Keep who led once from writing: what is done for the lead says under which number, and the database knows the newest.

A process may stop for longer than its lease lasts, between any two lines, and not know. So each transaction that is written for
the lead is checked inside, where nobody else can take the lead until it ends: see postgres.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from milonga_hub.errors import MilongaError

T = TypeVar("T")


class LeadLost(MilongaError):
    """Another hub leads by now; what this one was doing is the other's to go on with."""

    reason = "LEAD_LOST"

    def __init__(self) -> None:
        super().__init__("another hub has taken the lead; it goes on with what this one began")


@dataclass(frozen=True)
class Fence:
    """One term of the lead. Numbers only grow."""

    number: int
    # Whether the lease lasts still, by this process's own clock.
    lasts: Callable[[], bool]


_fence: ContextVar[Fence | None] = ContextVar("fence", default=None)


@contextmanager
def within(fence: Fence | None) -> Iterator[None]:
    """Do what is in the block under the fence, with all tasks that begin in it and all that they do in threads."""
    token = _fence.set(fence)
    try:
        yield
    finally:
        _fence.reset(token)


def kept(function: Callable[..., T]) -> Callable[..., T]:
    """Return the function under the fence of now, for threads that outlast the task which begins them."""
    fence = _fence.get()

    def called(*arguments: Any, **named: Any) -> T:
        with within(fence):
            return function(*arguments, **named)

    return called


def number() -> int | None:
    """Return the number of the lead for which this is done, None for what every hub may do."""
    fence = _fence.get()
    return None if fence is None else fence.number


def demand() -> None:
    """Raise LeadLost where the lease has ended; for what is done outside of the database and cannot be undone."""
    fence = _fence.get()
    if fence is not None and not fence.lasts():
        raise LeadLost
