"""Along which figures the networks of a search are told apart, and which of them a reader wants to see. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from milonga_hub.runs.models import Candidate
from milonga_hub.web.language import N_
from milonga_hub.web.language import gettext as _
from milonga_hub.web.words import count, figure, ms, percent, size

LOW, HIGH = ".min", ".max"


@dataclass(frozen=True)
class Axis:
    """One figure of a network: `value` reads it, `said` says it."""

    name: str
    words: str
    value: Callable[[Candidate], float | None]
    said: Callable[[float | None], str] = figure
    logarithmic: bool = False


@dataclass(frozen=True)
class Range:
    """What a reader wants of one axis; None leaves that end open."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: float | None) -> bool:
        """A figure that is not known is in no range."""
        return (
            value is not None
            and (self.low is None or value >= self.low - _close(self.low))
            and (self.high is None or value <= self.high + _close(self.high))
        )


def _close(value: float) -> float:
    # Addresses carry four digits; what stands on the edge of a range belongs to it.
    return abs(value) * 5e-4


def accuracy(candidate: Candidate) -> float | None:
    """Return the accuracy that was evaluated, else what was predicted."""
    return candidate.accuracy if candidate.accuracy is not None else candidate.predicted_accuracy


def axes(candidates: Sequence[Candidate], measure: str = "accuracy") -> list[Axis]:
    """Return what tells these networks apart: elastic dimensions by kind, then what the networks cost and reach."""
    costs = [
        Axis("params", N_("weights"), lambda c: c.params or None, count),
        Axis("macs", "MACs", lambda c: c.macs or None, count),
        Axis("model_bytes", N_("size"), lambda c: c.model_bytes or None, size),
        Axis("predicted_ms", N_("predicted"), lambda c: c.predicted_ms, ms, True),
        Axis("accuracy", measure, accuracy, percent),
        # Last, because most networks are not measured: lines end before it.
        Axis("measured_ms", N_("measured"), lambda c: c.measured_ms, ms, True),
    ]
    elastic = [_elastic(kind) for kind in _kinds(candidates)]
    return [axis for axis in (*elastic, *costs) if any(axis.value(each) is not None for each in candidates)]


def _kinds(candidates: Iterable[Candidate]) -> list[str]:
    """Return the last words of the dimensions' names, in order: "depth" of "stage1.depth"."""
    return list(dict.fromkeys(_kind(name) for each in candidates for name in each.choices))


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _elastic(kind: str) -> Axis:
    def value(candidate: Candidate) -> float | None:
        return overall(kind, [said for name, said in candidate.choices.items() if _kind(name) == kind])

    return Axis(f"choice_{kind}", kind, value)


def overall(kind: str, choices: Sequence[str]) -> float | None:
    """Return one figure for a dimension that stages or blocks choose each for itself: depths add up, others are averaged.

    Yes counts as 1 and no as 0; None where a choice is no figure.
    """
    found = [_number(each) for each in choices]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found):
        return None
    return sum(known) if kind == "depth" else sum(known) / len(known)


def _number(said: str) -> float | None:
    try:
        return {"yes": 1.0, "no": 0.0}.get(said) if said in ("yes", "no") else float(said)
    except ValueError:
        return None


def ranges(axes: Sequence[Axis], query: Mapping[str, str]) -> tuple[dict[str, Range], str]:
    """Return what the address asks for by name of axis, and what is wrong with it."""
    found, wrong = {}, ""
    for axis in axes:
        ends = {}
        for end in (LOW, HIGH):
            text = query.get(axis.name + end, "").strip()
            try:
                ends[end] = float(text) if text else None
            except ValueError:
                ends[end] = None
                wrong = _(
                    "%(text)s is not a figure for %(axis)s; write it like 0.9 or 12",
                    text=repr(text),
                    axis=_(axis.words),
                )
            if (value := ends[end]) is not None and not math.isfinite(value):
                ends[end] = None
        if ends[LOW] is not None or ends[HIGH] is not None:
            found[axis.name] = Range(ends[LOW], ends[HIGH])
    return found, wrong


def wanted(candidate: Candidate, axes: Sequence[Axis], ranges: Mapping[str, Range]) -> bool:
    """Return whether the network keeps to all ranges."""
    return all(ranges[axis.name].holds(axis.value(candidate)) for axis in axes if axis.name in ranges)
