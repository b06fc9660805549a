"""Search the best subnet for each device type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from milonga_hub.errors import FailedPrecondition
from milonga_hub.runs import orders
from milonga_hub.runs.candidates import Choice, Specialised, keep
from milonga_hub.runs.measure import measure_subnets, median_times, peaks, with_memory
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.profiled import Profiled
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work
from milonga_hub.search import rules as search_rules


async def search(work: Work, plan: RunPlan, trained: dict[str, Any], profiled: Profiled, report: Report) -> Specialised:
    spec = orders.searching(plan, work.place(plan), trained["checkpoint"], profiled)
    result = await work.job("search", "search", spec, report.of_job(0, 0.6))
    found = {name: one["candidates"] for name, one in result["types"].items()}
    training = plan.spec.training
    for some in found.values():
        work.services.search.remember(training.space, training.resolution_px, some)
    measured = await measure_subnets(work, found, "verify", report, start=0.6)
    choices: dict[str, Choice] = {}
    impossible: dict[str, str] = {}
    for item in plan.types:
        times = median_times(measured.get(item.name, []))
        rows = with_memory(found[item.name], peaks(measured.get(item.name, [])))
        fitting = search_rules.ranked(rows, times, item.limits.model_dump())
        if not fitting:
            fastest = result["types"][item.name]["fastest"]
            impossible[item.name] = search_rules.explain_impossible(item.name, item.limits.model_dump(), fastest, times)
        else:
            best, *others = [Choice(item, one, times[search_rules.timed(one)]) for one in fitting]
            choices[item.name] = replace(best, others=tuple(others))
        one = result["types"][item.name]
        chosen = fitting[0] if fitting else None
        keep(work, item.name, [*one["front"], *one["candidates"]], times, chosen, front=one["front"])
    if not choices:
        raise FailedPrecondition(" ".join(impossible.values()))
    _tell_search(result, choices, impossible, report)
    return Specialised(choices, impossible)


def _tell_search(
    result: dict[str, Any], choices: Mapping[str, Choice], impossible: Mapping[str, str], report: Report
) -> None:
    errors = {
        f"latency_error {name}": one["latency_model"]["held_out_relative_error"]
        for name, one in result["types"].items()
        if one["latency_model"]["held_out_relative_error"] is not None
    }
    tau = result["accuracy_predictor"]["kendall_tau"]
    words = [
        f"{name}: {choice.candidate['description']} in {choice.candidate['precision']}, predicted {choice.candidate['predicted_ms']:.3g} ms,"
        f" measured {choice.measured_ms:.3g} ms (its latency model is off by {errors.get(f'latency_error {name}', 0.0):.1%} on subnets held out)"
        for name, choice in choices.items()
        if choice.measured_ms is not None
    ]
    said = [
        *words,
        f"accuracies of subnets held out are predicted in an order whose Kendall's tau is {tau:.2f} (1 is right, 0 chance)",
        *impossible.values(),
    ]
    report(1.0, "; ".join(said), accuracy_kendall_tau=tau, **errors)
