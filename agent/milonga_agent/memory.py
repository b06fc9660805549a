"""What the agent serves and wants to, in its memory and on its disk, and who acts on it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from milonga_agent import plan
from milonga_agent.errors import AgentError
from milonga_agent.plan import State
from milonga_agent.state import Store

_log = logging.getLogger(__name__)


class Memory:
    """The state of now. A step that was under way when the agent was killed counts as tried once more."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.state = store.state()
        # Whether the state is on disk; while it is not, no step is begun: what it does could not be counted.
        self.kept = True
        self._listeners: list[Callable[[], None]] = []
        self.remember(plan.restart(self.state))

    def listen(self, listener: Callable[[], None]) -> None:
        """Call the listener after every change, and once at first."""
        self._listeners.append(listener)
        listener()

    def set(self, state: State) -> None:
        """Remember a state, and act on it. Raises DiskFull or OSError, and then nothing has changed."""
        if state == self.state and self.kept:
            return
        self._store.keep_state(state)
        self._become(state, kept=True)

    def remember(self, state: State) -> None:
        """Act on a state even where the disk is full: serving goes on."""
        try:
            self.set(state)
        except (AgentError, OSError) as error:
            _log.error("what the agent does cannot be written down: %s", error)
            self._become(state, kept=False)

    def _become(self, state: State, kept: bool) -> None:
        self.state, self.kept = state, kept
        for listener in self._listeners:
            listener()
