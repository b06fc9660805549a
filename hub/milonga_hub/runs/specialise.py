"""Train the supernet, and search the best subnet for each device type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from milonga_hub.errors import FailedPrecondition
from milonga_hub.runs.measure import measure_subnets
from milonga_hub.runs.models import Candidate
from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.profile import Profiled
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work
from milonga_hub.search import rules as search_rules


@dataclass(frozen=True)
class Choice:
    """The subnet that a device type gets."""

    type: TypePlan
    candidate: dict[str, Any]
    measured_ms: float | None


@dataclass(frozen=True)
class Specialised:
    """What the search ended with: choices by type, and why other types have none."""

    choices: Mapping[str, Choice]
    impossible: Mapping[str, str]


async def train(work: Work, plan: RunPlan, report: Report) -> dict[str, Any]:
    training = plan.spec.training
    base = str(work.services.blobs.path(plan.base_supernet).absolute()) if plan.base_supernet else None
    seen: set[float] = set()

    def tell(progress: Any) -> None:
        epoch = progress.metrics.get("epoch")
        if epoch is not None and "loss" in progress.metrics and epoch not in seen:
            seen.add(epoch)
            work.services.runs.add_training_point(work.run.name, dict(progress.metrics))
        report.of_job()(progress)

    result = await work.job(
        "train",
        "train",
        {
            "data": work.data(plan),
            "space": training.space,
            "resolution_px": training.resolution_px,
            "epochs": training.retrain_epochs if base else training.epochs,
            "batch_size": training.batch_size,
            "learning_rate": training.learning_rate,
            "seed": training.seed,
            "threads": work.threads(plan),
            "patience": training.patience,
            "tuning_trials": 0 if base else training.tuning_trials,
            "base_checkpoint": base,
        },
        tell,
    )
    report(
        1.0,
        f"smallest subnet {result['accuracy_smallest']:.1%}, largest {result['accuracy_largest']:.1%}"
        + (f", trained on from {plan.base_run}" if base else ""),
        accuracy_largest=result["accuracy_largest"],
        accuracy_smallest=result["accuracy_smallest"],
    )
    return result


async def search(work: Work, plan: RunPlan, trained: dict[str, Any], profiled: Profiled, report: Report) -> Specialised:
    result = await work.job("search", "search", _search_spec(work, plan, trained, profiled), report.of_job(0, 0.6))
    found = {name: one["candidates"] for name, one in result["types"].items()}
    training = plan.spec.training
    for some in found.values():
        work.services.search.remember(training.space, training.resolution_px, some)
    measured = await measure_subnets(work, plan, found, "verify", report, start=0.6)
    choices: dict[str, Choice] = {}
    impossible: dict[str, str] = {}
    for item in plan.types:
        times = {
            (one.subnet, one.precision): one.median_ms
            for one in measured.get(item.name, [])
            if one.median_ms is not None
        }
        chosen = search_rules.choose(found[item.name], times, item.limits.model_dump())
        if chosen is None:
            fastest = result["types"][item.name]["fastest"]
            impossible[item.name] = search_rules.explain_impossible(item.name, item.limits.model_dump(), fastest, times)
        else:
            choices[item.name] = Choice(item, chosen, times.get(search_rules.timed(chosen)))
        _keep(work, item.name, result["types"][item.name], times, chosen)
    if not choices:
        raise FailedPrecondition(" ".join(impossible.values()))
    _tell_search(result, choices, impossible, report)
    return Specialised(choices, impossible)


def _search_spec(work: Work, plan: RunPlan, trained: dict[str, Any], profiled: Profiled) -> dict[str, Any]:
    search = plan.spec.search
    return {
        "checkpoint": trained["checkpoint"],
        "costs": profiled.costs,
        "data": work.data(plan),
        "types": [
            {
                "name": item.name,
                "limits": item.limits.model_dump(exclude_none=True, exclude={"selector"}),
                "engine": item.engine,
                "measurements": profiled.good(item.name),
                "elsewhere": profiled.elsewhere(item.name),
            }
            for item in plan.types
        ],
        "evaluated_subnets": search.evaluated_subnets,
        "population": search.population,
        "generations": search.generations,
        "verified_candidates": search.verified_candidates,
        "seed": search.seed,
        "threads": work.threads(plan),
    }


def _keep(
    work: Work,
    device_type: str,
    found: dict[str, Any],
    times: Mapping[search_rules.Timed, float],
    chosen: dict[str, Any] | None,
) -> None:
    front = {search_rules.timed(item) for item in found["front"]}
    rows = {search_rules.timed(item): item for item in [*found["front"], *found["candidates"]]}
    fields = set(Candidate.model_fields)
    work.services.runs.keep_candidates(
        [
            Candidate(
                **{key: value for key, value in row.items() if key in fields},
                key=f"{work.run.name}|{device_type}|{'|'.join(timed)}",
                run=work.run.name,
                device_type=device_type,
                measured_ms=times.get(timed),
                on_front=timed in front,
                chosen=chosen is not None and timed == search_rules.timed(chosen),
            )
            for timed, row in rows.items()
        ]
    )


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
        f" measured {choice.measured_ms:.3g} ms (model's held-out error {errors.get(f'latency_error {name}', 0.0):.1%})"
        for name, choice in choices.items()
        if choice.measured_ms is not None
    ]
    said = [*words, f"accuracy predictor's held-out Kendall tau {tau:.2f}", *impossible.values()]
    report(1.0, "; ".join(said), accuracy_kendall_tau=tau, **errors)
