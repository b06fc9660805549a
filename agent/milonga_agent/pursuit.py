"""Carry out the step that plan.py says is next, and say how it ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from milonga_agent.comparing import nothing_to_compare
from milonga_agent.downloads import Line
from milonga_agent.errors import BadBundle, Refused, Untrusted
from milonga_agent.fetching import Moved
from milonga_agent.plan import Outcome, State, Step, WantedFile, Wish

# Where a bundle or a refusal will be no better next time.
_HOPELESS = (Step.DOWNLOAD, Step.INSTALL, Step.BUILD, Step.PROBE, Step.SHADOW, Step.COMMIT)


class Tell(Protocol):
    """Hears how far a step is, 0 to 1, and what there is to say of it. Raises Superseded where that is wanted no more."""

    def __call__(self, fraction: float, said: str = "") -> None: ...


class Depot(Protocol):
    """What keeps bundles on disk (steps.py)."""

    async def download(
        self, files: tuple[WantedFile, ...], line: Line, tell: Callable[[float], None], held: Sequence[str] = ()
    ) -> Moved: ...
    def verify(self, wish: Wish) -> None: ...
    def install(self, wish: Wish) -> object: ...
    def bundle(self, digest: str) -> Path: ...


class Server(Protocol):
    """What serves one bundle, and loads another beside it (serving.py)."""

    async def prepare(self, wish: Wish, bundle: Path, slowest_ms: float | None = None) -> None: ...
    async def shadow(self, wish: Wish, bundle: Path, tell: Tell) -> str: ...
    async def activate(self, wish: Wish, bundle: Path) -> None: ...
    async def clear(self) -> None: ...
    async def demand(self, wish: Wish) -> None: ...


class Done(NamedTuple):
    """What there is to say of a step that succeeded."""

    message: str = ""
    # Of a download.
    moved: Moved | None = None


@dataclass(frozen=True)
class Pursuit:
    """What the steps work with. Every step is safe to repeat, wherever the one before was cut off."""

    depot: Depot
    server: Server
    line: Line
    # Raises Untrusted unless the bundle may be installed.
    check: Callable[[Wish], Awaitable[None]]
    # Makes what only this device can, of the bundle with this digest in this folder.
    build: Callable[[str, Path], Awaitable[None]]

    async def perform(self, state: State, tell: Tell) -> Done:
        """Do the step under way and return what there is to say of it. Raises AgentError or OSError.

        `tell` hears how far a download or a shadow is, and may end a shadow by raising.
        """
        step, wish = state.position.step, state.wish
        if step is Step.DOWNLOAD:
            held = [each.bundle for each in (state.active, state.previous) if each.bundle]
            moved = await self.depot.download(wish.files, self.line, tell, held)
            return Done(str(moved), moved)
        if step is Step.VERIFY:
            self.depot.verify(wish)
            await self.check(wish)
        elif step is Step.INSTALL:
            self.depot.install(wish)
        elif step is Step.BUILD:
            await self.build(wish.bundle, self.depot.bundle(wish.bundle))
        elif step is Step.PROBE:
            await self.server.prepare(wish, self.depot.bundle(wish.bundle), slowest_ms(wish.expected_ms))
        elif step is Step.SHADOW:
            bundle = self.depot.bundle(wish.bundle)
            return Done(nothing_to_compare(state) or await self.server.shadow(wish, bundle, tell))
        elif step is Step.ACTIVATE:
            await self._serve(wish)
        elif step is Step.COMMIT:
            await self.server.demand(wish)
        elif step is Step.ROLL_BACK:
            await self._serve(state.active)
        return Done()

    async def _serve(self, wish: Wish) -> None:
        if wish.bundle:
            await self.server.activate(wish, self.depot.bundle(wish.bundle))
        else:
            await self.server.clear()


def slowest_ms(expected_ms: float) -> float | None:
    """Return how long one answer may take while probing; None where nobody has measured what to expect.

    Five times as long is another machine than the one measured. 20 ms more are what a device that serves, downloads and
    loads meanwhile loses to its scheduler.
    """
    return 5.0 * expected_ms + 20.0 if expected_ms > 0.0 else None


def outcome_of(step: Step, error: Exception) -> Outcome:
    """Return whether a step that failed so is worth another try."""
    hopeless = isinstance(error, Untrusted) or (isinstance(error, (BadBundle, Refused)) and step in _HOPELESS)
    return Outcome.HOPELESS if hopeless else Outcome.FAILED
