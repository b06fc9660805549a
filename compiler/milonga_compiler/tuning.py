"""What to tune next, and when to stop: decisions on kernels' times alone. tvm_tuning.py does it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from milonga_compiler.timing import Timer

# Schedules that are built and measured together. Each turn searches anew, which takes as long as some eight measurements.
TRIALS_PER_TURN = 16
# Fewer are not worth the search before them.
_LEAST_TRIALS = 4
# A kernel that takes less of the network's time is left alone until the others are faster.
_WORTH_SHARE = 0.01
# Turns in a row that gained less than this, after which a kernel counts as tuned.
_LEAST_GAIN, _IDLE_TURNS = 0.02, 2


@dataclass(frozen=True)
class Budget:
    """What one tuning may spend; None: no limit of this kind, and nothing at all is no budget."""

    seconds: float | None = None
    trials: int | None = None

    def trials_that_fit(self, spent_seconds: float, spent_trials: int, seconds_per_trial: float | None) -> int:
        """Return how many schedules the next turn may try; 0 where what is left is not worth a turn.

        `seconds_per_trial` is what they took until now, None before the first.
        """
        if self.seconds is None and self.trials is None:
            return 0
        count = TRIALS_PER_TURN
        if self.seconds is not None:
            left = self.seconds - spent_seconds
            if left <= 0:
                return 0
            if seconds_per_trial:
                count = min(count, math.floor(left / seconds_per_trial))
        if self.trials is not None:
            count = min(count, self.trials - spent_trials)
            # The last few that were asked for are tried, however few.
            return max(0, count) if count >= min(_LEAST_TRIALS, self.trials - spent_trials) else 0
        return count if count >= _LEAST_TRIALS else 0


@dataclass(frozen=True)
class Tuning:
    """The folder that a build takes tuned kernels from, and what may be spent on more of them first."""

    database: Path
    budget: Budget = Budget()
    # How many threads measure a schedule.
    threads: int = 1
    # Has a device measure schedules; None: this machine does.
    timer: Timer | None = None


@dataclass(frozen=True)
class Kernel:
    """A kernel of the network, which TVM calls a task: `count` places use it. Times are in ms, of one call.

    `key` is the structural hash, by which another network finds what was tuned. `best_ms` is None before a schedule ran.
    """

    key: str
    name: str
    count: int
    untuned_ms: float
    best_ms: float | None = None
    trials: int = 0
    turns: int = 0
    idle_turns: int = 0

    @property
    def ms(self) -> float:
        """Return what the kernel takes in a build: a schedule that is slower than none is not taken."""
        return self.untuned_ms if self.best_ms is None else min(self.untuned_ms, self.best_ms)

    @property
    def network_ms(self) -> float:
        """Return what all its places take together."""
        return self.count * self.ms

    @property
    def tuned(self) -> bool:
        return self.best_ms is not None

    @property
    def settled(self) -> bool:
        """Return whether the last turns gained nothing."""
        return self.idle_turns >= _IDLE_TURNS

    def after_turn(self, best_ms: float | None, trials: int) -> Kernel:
        """Return the kernel after so many schedules more; `best_ms` is the fastest of all that ever ran."""
        now = replace(self, best_ms=best_ms, trials=self.trials + trials, turns=self.turns + 1)
        idle = self.idle_turns + 1 if now.ms > self.ms * (1 - _LEAST_GAIN) else 0
        return replace(now, idle_turns=idle)


def next_kernel(kernels: Sequence[Kernel]) -> Kernel | None:
    """Return the kernel that the next turn is for, or None where none is worth one.

    Those that were never tuned come first. Among equals, turns go like seats to parties (D'Hondt): to the kernel that takes
    most of the network's time for each turn that it has had, this one included.
    """
    whole = network_ms(kernels)
    worth = [one for one in kernels if not one.settled and one.network_ms >= _WORTH_SHARE * whole]
    return max(worth, key=lambda one: (not one.turns, one.network_ms / (one.turns + 1), one.key), default=None)


def network_ms(kernels: Sequence[Kernel]) -> float:
    """Return what all kernels of a network take together, each measured by itself."""
    return sum(one.network_ms for one in kernels)


@dataclass(frozen=True)
class Step:
    """How far a tuning is: at its beginning, where `turn` is None, and after each turn, with the kernel before it.

    `found` kernels were in the database when it began. `seconds` and `trials` are those of this tuning; `failed` of the
    trials did not build or run. `ended` says why nothing follows. `device` timed last; empty where this machine does.
    """

    kernels: tuple[Kernel, ...]
    found: int
    seconds: float = 0.0
    trials: int = 0
    failed: int = 0
    turn: Kernel | None = None
    ended: str = ""
    device: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Step:
        turn = Kernel(**said["turn"]) if said["turn"] else None
        return cls(**{**said, "kernels": tuple(Kernel(**one) for one in said["kernels"]), "turn": turn})

    def words(self, budget: Budget) -> str:
        """Return the step for people."""
        whole = f"{network_ms(self.kernels):.3g} ms in {len(self.kernels)} kernels"
        if self.ended:
            tuned, tried = sum(one.tuned for one in self.kernels), f"{self.trials} schedules tried"
            failed = f", {self.failed} of them did not build or run" if self.failed else ""
            return f"tuning ended, {self.ended}: {whole}, {tuned} of them tuned; {tried}{failed}"
        if self.turn is None:
            return f"{self.found} of {len(self.kernels)} kernels were found tuned; {whole}"
        now = next(one for one in self.kernels if one.key == self.turn.key)
        fresh = sum(not one.turns for one in self.kernels)
        return (
            f"{now.name} ({now.count} in the network): {self.turn.ms:.3g} to {now.ms:.3g} ms; {whole},"
            f" {fresh} not looked at yet; {_spent(self, budget)}"
        )


def _spent(step: Step, budget: Budget) -> str:
    said = []
    if budget.seconds is not None:
        said.append(f"{step.seconds / 60:.1f} of {budget.seconds / 60:g} minutes")
    if budget.trials is not None:
        said.append(f"{step.trials} of {budget.trials} schedules")
    return ", ".join(said)
