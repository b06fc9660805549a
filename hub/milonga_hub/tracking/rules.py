"""What a run of the hub is as a run of MLflow: one value, made anew from what the hub knows whenever something changed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from milonga_hub.builds.models import Build
from milonga_hub.models.models import ModelVersion
from milonga_hub.runs.models import Candidate, Run, RunState, StageState

# The least of what MLflow's servers of the 2.x and 3.x lines take.
_MAX_KEY = 250
_MAX_PARAM = 6000
_MAX_TAG = 5000
_FOREIGN = re.compile(r"[^\w. /-]", re.ASCII)

# By these a run is found again: two hubs may share a server, and both have a projects/digits/runs/1.
RUN_TAG, HUB_TAG = "milonga.run", "milonga.hub"

STATUS = {
    RunState.AWAITING_APPROVAL: "SCHEDULED",
    RunState.QUEUED: "SCHEDULED",
    RunState.RUNNING: "RUNNING",
    RunState.SUCCEEDED: "FINISHED",
    RunState.FAILED: "FAILED",
    RunState.CANCELLED: "KILLED",
}
# A drawing is a page of SVG, and the key repeats other columns.
_COLUMNS = tuple(name for name in Candidate.model_fields if name not in ("key", "run", "drawing"))


@dataclass(frozen=True)
class Point:
    """One value of a metric; `at_ms` is Unix time."""

    key: str
    step: int
    value: float
    at_ms: int = field(compare=False)


@dataclass(frozen=True)
class Registered:
    """A version of the model registry, with where it comes from as tags."""

    model: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Record:
    """All that MLflow is told of a run. `url` leads to the run's page, and may differ from start to start of the hub."""

    run: str
    hub: str
    experiment: str
    name: str
    status: str
    started_ms: int
    ended_ms: int | None
    url: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[Point]
    artifacts: Mapping[str, str]
    version: Registered | None

    @property
    def digest(self) -> str:
        """Return what differs as soon as MLflow would have to be told something new."""
        told = asdict(self) | {"url": "", "points": [[each.key, each.step, each.value] for each in self.points]}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def record(
    run: Run,
    version: ModelVersion | None,
    builds: Mapping[str, Build],
    artifacts: Mapping[str, str],
    hub: str,
    url: str,
    now: datetime,
) -> Record:
    """Return the run as it is now; `builds` are the chosen ones of its version, by device type."""
    tags = {
        RUN_TAG: run.name,
        HUB_TAG: hub,
        "milonga.state": run.state.value,
        "milonga.trigger": run.trigger.value,
        "milonga.reason": run.reason,
        "milonga.task": run.task.value,
        "milonga.dataset_version": run.dataset_version,
        "milonga.base_run": run.base_run,
        "milonga.model_version": version.name if version else "",
        "milonga.outcome": run.outcome,
        "milonga.error": run.error,
    }
    return Record(
        run=run.name,
        hub=hub,
        experiment=run.project,
        name=f"{run.project} {run.number}",
        status=STATUS[run.state],
        started_ms=_ms(run.created_at),
        ended_ms=_ms(run.ended_at) if run.ended_at else None,
        url=url,
        params=params(run.spec_json),
        tags={key: value[:_MAX_TAG] for key, value in tags.items() if value},
        points=[*_curve(run, now), *_figures(run), *_chosen(run, version, builds, now)],
        artifacts=artifacts,
        version=_registered(version, builds) if version else None,
    )


def params(spec_json: str) -> dict[str, str]:
    """Return the leaves of the spec by their path: training.epochs, limits.0.latency_ms."""
    flat: dict[str, str] = {}

    def walk(path: str, value: Any) -> None:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, each in inner:
            walk(f"{path}.{key}" if path else str(key), each)
        # Servers take an empty value for none.
        if not isinstance(value, dict | list) and value not in (None, ""):
            flat[_key(path)] = str(value)[:_MAX_PARAM]

    walk("", json.loads(spec_json or "{}"))
    return flat


def candidates_csv(candidates: Sequence[Candidate]) -> str:
    """Return the networks that the search looked at, one a line, without their drawings."""
    text = io.StringIO()
    rows = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    rows.writeheader()
    for each in candidates:
        choices = "; ".join(f"{name}={value}" for name, value in sorted(each.choices.items()))
        rows.writerow({name: getattr(each, name) for name in _COLUMNS} | {"choices": choices})
    return text.getvalue()


def has_searched(run: Run) -> bool:
    """Whether the run's candidates stay about as they are: while it searches, they change all the time."""
    return any(stage.name == "search" and stage.ended_at is not None for stage in run.stages)


def _curve(run: Run, now: datetime) -> list[Point]:
    """Epochs are kept without a time: they have that at which they are told, or the run's end if that is earlier."""
    at_ms = _ms(run.ended_at or now)
    return [
        Point(_key(name), int(epoch["epoch"]), float(value), at_ms)
        for epoch in run.history
        for name, value in epoch.items()
        if name != "epoch"
    ]


def _figures(run: Run) -> list[Point]:
    """What each stage found and how long it took, once it is done; a stage that is tried again has a step for each try."""
    return [
        Point(_key(f"{stage.name}/{name}"), stage.attempts, float(value), _ms(stage.ended_at))
        for stage in run.stages
        if stage.ended_at is not None and stage.started_at is not None and stage.state is not StageState.SKIPPED
        for name, value in {**stage.metrics, "seconds": (stage.ended_at - stage.started_at).total_seconds()}.items()
    ]


def _chosen(run: Run, version: ModelVersion | None, builds: Mapping[str, Build], now: datetime) -> list[Point]:
    """What each device type gets, so that runs can be compared by it."""
    at_ms = _ms(run.ended_at or now)
    found = {f"accuracy/{name}": value for name, value in (version.accuracies if version else {}).items()}
    for name, build in builds.items():
        if build.accuracy is not None:
            found[f"accuracy/{name}"] = build.accuracy
        if build.measured_ms is not None:
            found[f"measured_ms/{name}"] = build.measured_ms
        found[f"size_bytes/{name}"] = float(build.size_bytes)
    return [Point(_key(name), 0, value, at_ms) for name, value in found.items()]


def _registered(version: ModelVersion, builds: Mapping[str, Build]) -> Registered:
    tags = {
        "milonga.model_version": version.name,
        "milonga.run": version.run,
        "milonga.dataset_version": version.dataset_version,
        "milonga.task": version.task.value,
        "milonga.supernet": version.supernet,
        **{f"milonga.subnet.{name}": subnet for name, subnet in version.subnets.items()},
        **{f"milonga.accuracy.{name}": f"{value:.6g}" for name, value in version.accuracies.items()},
    }
    for name, build in builds.items():
        tags |= {f"milonga.target.{name}": build.target, f"milonga.bundle.{name}": build.bundle}
        if build.accuracy is not None:
            tags[f"milonga.accuracy.{name}"] = f"{build.accuracy:.6g}"
    return Registered(version.model, {_key(key): value[:_MAX_TAG] for key, value in tags.items() if value})


def _key(name: str) -> str:
    return _FOREIGN.sub("_", name)[:_MAX_KEY]


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
