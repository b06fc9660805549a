"""What the agent does next. Pure: decided from the state and the wish alone, as one table of transitions.

DOWNLOAD -> VERIFY -> INSTALL -> BUILD -> PROBE -> SHADOW -> ACTIVATE -> COMMIT -> done
a step that fails is tried again or leads to ROLL_BACK -> done

SHADOW is left out unless the wish asks for it. COMMIT checks that what was activated still answers; only then it becomes `active`, and what was active `previous`.
Both stay on disk: where `active` does not keep serving, `previous` takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum


class Step(str, Enum):
    """Steps of an assignment, named as in the protocol."""

    DOWNLOAD = "DOWNLOAD"
    VERIFY = "VERIFY"
    INSTALL = "INSTALL"
    # Make what only this device can make; most bundles have no such part.
    BUILD = "BUILD"
    PROBE = "PROBE"
    # Run beside what serves, and be compared with it.
    SHADOW = "SHADOW"
    ACTIVATE = "ACTIVATE"
    COMMIT = "COMMIT"
    ROLL_BACK = "ROLL_BACK"


class Outcome(str, Enum):
    """How a step ended. Whatever may go better next time is FAILED, whatever never will is HOPELESS."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    HOPELESS = "HOPELESS"


@dataclass(frozen=True)
class WantedFile:
    """One file of a bundle."""

    path: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Shadow:
    """How a bundle runs beside the one that serves before it may serve itself, as the protocol's ShadowSpec says it."""

    minutes: float = 30.0
    min_requests: int = 50
    max_disagreement: float = 0.1
    share: float = 1.0
    # Whether a shadow that saw too few requests may serve all the same.
    go_on: bool = False


@dataclass(frozen=True)
class Wish:
    """The state that the hub wants. An empty bundle means: serve nothing."""

    generation: int = 0
    bundle: str = ""
    files: tuple[WantedFile, ...] = ()
    model_version: str = ""
    project: str = ""
    # Median of one answer as measured on this type of device, 0 where nobody has.
    expected_ms: float = 0.0
    # None: serve at once.
    shadow: Shadow | None = None


@dataclass(frozen=True)
class Position:
    """Where the agent stands in a wish: `step` is under way for the `attempt`-th time; None means that it has ended."""

    step: Step | None = None
    attempt: int = 0


@dataclass(frozen=True)
class State:
    """All that an agent remembers of what it serves and wants to."""

    # Generation of the last wish that ended, in success or failure.
    generation: int = 0
    wish: Wish = field(default_factory=Wish)
    position: Position = field(default_factory=Position)
    active: Wish = field(default_factory=Wish)
    message: str = ""
    # What served well before `active`.
    previous: Wish = field(default_factory=Wish)
    # How often `active` was started since it last served for a while.
    starts: int = 0

    @property
    def kept(self) -> tuple[Wish, ...]:
        """Return the bundles that must stay on disk."""
        under_way = (self.wish,) if self.position.step is not None else ()
        return (*under_way, self.active, self.previous)


# What follows when a step has succeeded; None ends the wish.
NEXT: dict[Step, Step | None] = {
    Step.DOWNLOAD: Step.VERIFY,
    Step.VERIFY: Step.INSTALL,
    Step.INSTALL: Step.BUILD,
    Step.BUILD: Step.PROBE,
    Step.PROBE: Step.SHADOW,
    Step.SHADOW: Step.ACTIVATE,
    Step.ACTIVATE: Step.COMMIT,
    Step.COMMIT: None,
    Step.ROLL_BACK: None,
}

# How often a step is tried, and from which step on it is tried again. A file that fails its digest is fetched again.
RETRIES: dict[Step, tuple[int, Step]] = {
    Step.DOWNLOAD: (8, Step.DOWNLOAD),
    Step.VERIFY: (3, Step.DOWNLOAD),
    Step.INSTALL: (3, Step.INSTALL),
    # An engine that does not build is passed over; only a crash of the agent itself comes here.
    Step.BUILD: (3, Step.BUILD),
    # A crash while probing or activating may be the bundle's fault: after two, it is.
    Step.PROBE: (2, Step.PROBE),
    # A restart begins the comparison again. A device that goes down under two models each time does not get both.
    Step.SHADOW: (3, Step.SHADOW),
    Step.ACTIVATE: (2, Step.ACTIVATE),
    # After a restart the former bundle serves, so that the new one must be activated again.
    Step.COMMIT: (3, Step.ACTIVATE),
    Step.ROLL_BACK: (5, Step.ROLL_BACK),
}

# A bundle that has ended so often without serving for a while in between will go on ending.
MAX_STARTS = 3


def accept(state: State, wish: Wish) -> State:
    """Return the state that pursues the wish. One that is old, ended or under way already changes nothing."""
    under_way = state.position.step is not None
    if wish.generation <= state.generation or (under_way and wish.generation <= state.wish.generation):
        return state
    first = Step.DOWNLOAD if wish.bundle else Step.ACTIVATE
    return replace(state, wish=wish, position=Position(first, 1), message="")


def advance(state: State, outcome: Outcome, message: str = "") -> State:
    """Return the state after the step under way has ended so."""
    step, attempt = state.position.step, state.position.attempt
    assert step is not None, "no step is under way"
    if outcome is Outcome.SUCCEEDED:
        return _after(state, step)
    limit, again = RETRIES[step]
    if outcome is Outcome.FAILED and attempt < limit:
        # Attempts are counted over the whole detour, so that a bad file does not bring the agent round for ever.
        return replace(state, position=Position(again, attempt + 1), message=message)
    if step is Step.ROLL_BACK:
        # The wish has ended. What was active stays wanted: it is started again and again, and replaced if it keeps ending.
        return replace(state, generation=state.wish.generation, position=Position(), message=message)
    return replace(state, position=Position(Step.ROLL_BACK, 1), message=message)


def _after(state: State, step: Step) -> State:
    following = NEXT[step]
    if step is Step.COMMIT:
        ended = state.wish
        return replace(
            state,
            generation=ended.generation,
            active=ended,
            previous=_previous(state),
            position=Position(),
            message="",
            starts=0,
        )
    if step is Step.ROLL_BACK:
        # The message stays: it says why.
        return replace(state, generation=state.wish.generation, position=Position())
    if following is Step.SHADOW and state.wish.shadow is None:
        following = NEXT[following]
    assert following is not None
    # A step that is tried again from an earlier one keeps its count over the detour.
    attempt = state.position.attempt if step in (Step.DOWNLOAD, Step.ACTIVATE) else 1
    return replace(state, position=Position(following, attempt))


def _previous(state: State) -> Wish:
    """Return what is kept beside the wish that ends well now."""
    if not state.wish.bundle:
        return Wish()
    return state.previous if state.active.bundle in ("", state.wish.bundle) else state.active


def start(state: State) -> State:
    """Return the state in which `active` is started (again): the one before takes its place if it has ended too often."""
    if state.starts < MAX_STARTS or not state.previous.bundle:
        return replace(state, starts=state.starts + 1)
    message = f"{state.active.model_version} ended {state.starts} times; {state.previous.model_version} serves again"
    return replace(state, active=state.previous, previous=Wish(), starts=1, message=message)


def steady(state: State) -> State:
    """Return the state in which `active` has served for a while: earlier ends of it count no more."""
    return replace(state, starts=0)


def restart(state: State) -> State:
    """Return the state after the agent was killed: a step under way counts as tried once more."""
    if state.position.step is None:
        return state
    return advance(state, Outcome.FAILED, f"the agent was interrupted at {state.position.step.value.lower()}")
