"""Train each chosen subnet on alone for a while, from the weights that it inherited, and keep what that gained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from milonga_hub.jobs import Progress
from milonga_hub.runs import orders
from milonga_hub.runs.candidates import Choice, Specialised, change
from milonga_hub.runs.measure import target_of
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.stages import Report
from milonga_hub.runs.train import assess, trained
from milonga_hub.runs.work import Work
from milonga_hub.search.rules import short_digest

Row = dict[str, Any]

# Share of a subnet's turn that trains; the rest evaluates.
_TRAINED = 0.9


async def finetune(
    work: Work, plan: RunPlan, supernet: Mapping[str, Any], found: Specialised, report: Report
) -> Specialised:
    """Return the choices with the better of inherited and fine-tuned weights. Types that chose the same subnet share a training.

    What was measured of a subnet holds: latency does not depend on weights.
    """
    chosen = {choice.candidate["subnet"]: choice.candidate for choice in found.choices.values()}
    tuned: dict[str, dict[str, Row]] = {}
    for index, (subnet, candidate) in enumerate(sorted(chosen.items())):
        targets = [
            target_of(choice.candidate) for choice in found.choices.values() if choice.candidate["subnet"] == subnet
        ]
        start, share = index / len(chosen), 1 / len(chosen)
        tell = report.of_job(start, start + _TRAINED * share)
        tuned[subnet] = await _tuned(work, plan, supernet, candidate, list(dict.fromkeys(targets)), tell, index)
    choices = {
        name: _better(work, name, choice, tuned[choice.candidate["subnet"]][target_of(choice.candidate)])
        for name, choice in found.choices.items()
    }
    words: list[str] = []
    figures: dict[str, float] = {}
    for name, choice in choices.items():
        was, now = found.choices[name].candidate["accuracy"], choice.candidate["accuracy"]
        words.append(f"{name}: {_said(was, now)}")
        figures |= {f"accuracy inherited {name}": was, f"accuracy {name}": now}
    report(1.0, "; ".join(words), **figures)
    return replace(found, choices=choices)


async def finetuned(
    work: Work,
    plan: RunPlan,
    supernet: Mapping[str, Any],
    found: Specialised,
    choice: Choice,
    tell: Callable[[Progress], None],
) -> Choice:
    """Return a choice that stands among the others of what the search found with the better of both weights."""
    first = {one.subnet for one in found.choices.values()}
    others = {other.subnet for one in found.choices.values() for other in one.others} - first
    # One that another type chose first is trained already.
    index = [*sorted(first), *sorted(others)].index(choice.subnet)
    target = target_of(choice.candidate)
    tuned = await _tuned(work, plan, supernet, choice.candidate, [target], tell, index, alone=True)
    return _better(work, choice.type.name, choice, tuned[target])


async def _tuned(
    work: Work,
    plan: RunPlan,
    supernet: Mapping[str, Any],
    candidate: Row,
    targets: list[str],
    tell: Callable[[Progress], None],
    index: int,
    alone: bool = False,
) -> dict[str, Row]:
    """Return what builds are made from and held against, by target, after the training, which is the run's `index`th of its kind.

    `alone` judges it beside what others were judged for before.
    """
    folder = f"finetune/{short_digest(candidate['subnet'])}"
    spec = orders.fine_tuning(plan, work.place(plan), supernet, candidate)
    before = len(supernet["history"]) + index * plan.spec.training.finetune_epochs
    result = await trained(work, f"{folder}/train", spec, tell, before)
    judged = f"assess-{targets[0].replace('/', '-')}" if alone else "assess"
    return await assess(work, plan, f"{folder}/{judged}", result["checkpoint"], targets)


def _better(work: Work, device_type: str, choice: Choice, tuned: Row) -> Choice:
    """Return the choice with the fine-tuned weights where they are more accurate; tell people which it was."""
    was, now = choice.candidate["accuracy"], tuned["accuracy"]
    change(work, device_type, choice.candidate, note=_said(was, now), accuracy=max(was, now))
    return replace(choice, candidate={**choice.candidate, **tuned}) if now > was else choice


def _said(was: float, now: float) -> str:
    return (
        f"fine-tuned: {was:.1%} to {now:.1%}" if now > was else f"as inherited: {was:.1%}, not better after fine-tuning"
    )
