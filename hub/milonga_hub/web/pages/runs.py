"""One run: its stages, its training, what its search found for each device type, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from markupsafe import Markup

from milonga_hub.builds.models import Build
from milonga_hub.db import utc_now
from milonga_hub.devices.models import DeviceType
from milonga_hub.devices.rules import attributes
from milonga_hub.projects.models import Limits
from milonga_hub.projects.rules import limits_among, limits_of_type
from milonga_hub.runs.models import Candidate, Run
from milonga_hub.runs.rules import ENDED, tightest
from milonga_hub.traces import JobTrace, Line, traces
from milonga_hub.web.charts.pareto import pareto
from milonga_hub.web.charts.resources import resources
from milonga_hub.web.charts.table import carrying
from milonga_hub.web.charts.timeline import timeline
from milonga_hub.web.charts.training import training
from milonga_hub.web.language import N_
from milonga_hub.web.language import gettext as _
from milonga_hub.web.pages.examples import examples
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices

_SHOWN_LINES = 60
# What each stage is for, while nothing else is to be said of it.
PURPOSES = {
    "prepare": N_("looks at what there is: pictures, devices, earlier runs"),
    "train": N_("trains, usually one large network that has many smaller ones in it"),
    "profile": N_("times a few of them on your devices, and learns to tell the times of all"),
    "search": N_("finds the best one for each type of device"),
    "finetune": N_("trains those that were found a little more"),
    "build": N_("makes them into files that devices run, and checks that nothing was lost"),
    "compare": N_("holds them against what devices run now; only what is better goes on"),
    "rollout": N_("sends them out, a part of the devices at a time"),
}
# Of what one job wrote to its error stream.
_MOST_LETTERS = 100_000


@dataclass(frozen=True)
class Found:
    """What a run found for one device type."""

    name: str
    type: DeviceType | None
    limits: Limits
    picture: Markup
    chosen: Candidate | None
    drawing: Markup
    candidates: Sequence[Candidate]
    build: Build | None
    # Rows of (group, accuracy before, accuracy now): of all pictures, and class by class.
    comparison: Sequence[tuple[str, float | None, float | None]]
    classes: Sequence[tuple[str, float | None, float | None]]


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/runs/{project}/{number}")
    def one(request: Request, project: str, number: int) -> HTMLResponse:
        """Show it, in a thread of its own: what its jobs told lies in files."""
        run = hub.runs.get(f"projects/{project}/runs/{number}")
        version = next((each for each in hub.models.versions(project)[0] if each.run == run.name), None)
        builds = {} if version is None else hub.builds.chosen(version.name)
        told = traces(_folder(hub, run))
        shown = next(iter(builds.values()), None)
        return render(
            request,
            "run.html",
            live=run.name,
            run=run,
            ended=run.state in ENDED,
            purposes=PURPOSES,
            timeline=timeline(run.stages, utc_now()),
            training=training(run.history, run.task.measure),
            found=_found(hub, run, builds),
            version=version,
            resources=resources(told),
            log=_newest(told),
            shown_build=shown,
            examples=examples(hub, version.dataset_version if version else "", shown),
            rollouts=hub.rollouts.headlines(project, version.name)[0] if version else [],
        )

    @pages.get("/runs/{project}/{number}/log")
    def log(project: str, number: int) -> PlainTextResponse:
        """Return all that the run's jobs told, and what went wrong in them."""
        run = hub.runs.get(f"projects/{project}/runs/{number}")
        return PlainTextResponse("".join(_whole_log(_folder(hub, run))))

    @pages.post("/runs/{project}/{number}/{verb}")
    async def change(project: str, number: int, verb: str) -> RedirectResponse:
        name = f"projects/{project}/runs/{number}"
        verbs = {
            "cancel": hub.runs.cancel,
            "resume": hub.runs.resume,
            "approve": hub.runs.approve,
            "refuse": hub.runs.refuse,
        }
        if verb in verbs:
            verbs[verb](name)
        return RedirectResponse(f"/runs/{quote(project, safe='')}/{number}", status_code=303)

    return pages


def _folder(hub: HubServices, run: Run) -> Path:
    return hub.settings.data_dir / "runs" / run.project / str(run.number)


def _newest(told: Sequence[JobTrace]) -> list[tuple[str, Line]]:
    """Return what was told last, the newest first."""
    lines = [(each.job, line) for each in told for line in each.lines[-_SHOWN_LINES:]]
    return sorted(lines, key=lambda one: one[1].at, reverse=True)[:_SHOWN_LINES]


def _whole_log(folder: Path) -> Iterator[str]:
    for each in traces(folder):
        yield f"== {each.job}\n"
        for line in each.lines:
            yield f"[{line.at:%Y-%m-%d %H:%M:%S} UTC] {line.fraction:4.0%} {line.message}{f' ({line.where})' if line.where else ''}\n"
        errors = folder / each.job / "log.txt"
        if errors.is_file():
            yield errors.read_text(encoding="utf-8", errors="replace")[-_MOST_LETTERS:]


def _found(hub: HubServices, run: Run, builds: dict[str, Build]) -> list[Found]:
    candidates = everything(lambda token: hub.runs.candidates(run.name, page_token=token))
    types = {each.name: each for each in everything(lambda token: hub.devices.types(page_token=token))}
    by_type: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_type.setdefault(candidate.device_type, []).append(candidate)
    return [_of_type(hub, run, name, types.get(name), some, builds.get(name)) for name, some in sorted(by_type.items())]


def _of_type(
    hub: HubServices,
    run: Run,
    name: str,
    device_type: DeviceType | None,
    candidates: list[Candidate],
    build: Build | None,
) -> Found:
    limits = limits_of(hub, run, name)
    close = [each for each in candidates if each.measured_ms is not None or each.chosen]
    chosen = next((each for each in candidates if each.chosen), None)
    return Found(
        name=name,
        type=device_type,
        limits=limits,
        picture=pareto(name, candidates, limits.latency_ms, run.task.measure),
        chosen=chosen,
        drawing=drawn(chosen),
        candidates=sorted(close, key=lambda each: (not each.chosen, each.measured_ms or 0.0)),
        build=build,
        comparison=_comparison(run, name),
        classes=_classes(run, name),
    )


def limits_of(hub: HubServices, run: Run, device_type: str) -> Limits:
    """Return what held for the type; where limits ask for labels, as its devices of now tell."""
    if not run.spec_json:
        return Limits()
    spec = hub.runs.spec(run.name)
    if (limits := limits_of_type(spec, device_type)) is not None:
        return limits
    devices = hub.devices.outlines(spec.selector, device_type=device_type, with_revoked=False)
    return tightest(limits_among(spec, map(attributes, devices)))


def drawn(candidate: Candidate | None) -> Markup:
    """Return the drawing of a subnet with its choices in it; nothing where there is none."""
    if candidate is None:
        return Markup("")
    return carrying(candidate.drawing, [("dimension", "choice"), *candidate.choices.items()])


def _comparison(run: Run, device_type: str) -> list[tuple[str, float | None, float | None]]:
    metrics = next((stage.metrics for stage in run.stages if stage.name == "compare"), {})
    rows = []
    for group, words in (("old", N_("known pictures")), ("new", N_("new pictures")), ("all", N_("all"))):
        before = metrics.get(f"champion {group} {device_type}")
        now = metrics.get(f"challenger {group} {device_type}")
        if before is not None or now is not None:
            rows.append((_(words), before, now))
    return rows


def _classes(run: Run, device_type: str) -> list[tuple[str, float | None, float | None]]:
    """Return the classes, those first that lost most."""
    kept = next((one for one in run.comparisons if one.device_type == device_type), None)
    if kept is None:
        return []
    return [
        (_("class %(name)s", name=one.name), one.champion_accuracy, one.challenger_accuracy)
        for one in sorted(
            kept.classes, key=lambda one: (one.challenger_accuracy or 0.0) - (one.champion_accuracy or 0.0)
        )
    ]
