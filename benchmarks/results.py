"""What every benchmark gives back: claims, held against a peer that was measured in the same run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """One claim. `goal` is the largest ratio that holds (value over peer), or None where there is none yet.

    `spread` is the relative interquartile range of the repeats of `value`, or None for a single figure.
    """

    claim: str
    value: float
    unit: str
    peer: str
    peer_value: float | None
    goal: float | None
    spread: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if not self.peer_value else self.value / self.peer_value

    @property
    def holds(self) -> bool | None:
        return None if self.goal is None or self.ratio is None else self.ratio <= self.goal


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and the interquartile range divided by it."""
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4)
    return median, (high - low) / median if median else 0.0


def keep(name: str, results: Sequence[Result]) -> None:
    """Write benchmarks/results/NAME.json. Long benchmarks do it in between, so that one that is stopped still tells something."""
    FOLDER.mkdir(exist_ok=True)
    rows = [{**asdict(result), "ratio": result.ratio, "holds": result.holds} for result in results]
    (FOLDER / f"{name}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def show(name: str, results: Sequence[Result]) -> None:
    """Print the table and keep it."""
    table = Table(title=name, title_justify="left")
    for column in ("claim", "value", "peer", "peer value", "ratio", "goal", "holds", "spread"):
        table.add_column(column, overflow="fold")
    for result in results:
        table.add_row(
            result.claim,
            f"{result.value:.4g} {result.unit}",
            result.peer,
            "" if result.peer_value is None else f"{result.peer_value:.4g} {result.unit}",
            "" if result.ratio is None else f"{result.ratio:.3f}",
            "" if result.goal is None else f"<= {result.goal:g}",
            {None: "", True: "yes", False: "NO"}[result.holds],
            "" if result.spread is None else f"{result.spread:.0%}",
        )
    Console(width=140).print(table)
    keep(name, results)
