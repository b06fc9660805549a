"""All builds of a model; and one: its gates and figures, what was done for it, and what a person may decide of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup

from milonga_hub.builds.models import Build, BuildTuning, TuningSite
from milonga_hub.builds.rules import asked_tuning, objection_to
from milonga_hub.callers import signature
from milonga_hub.errors import InvalidInput, NotFound
from milonga_hub.web.charts.confusion import confusion
from milonga_hub.web.charts.precision import precision_recall
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices

# The end of a log is what people look for; all of it can be downloaded.
_SHOWN_LETTERS = 20_000
# Of many classes the worst are shown.
_SHOWN_CLASSES = 100
# Versions beside each other.
_SHOWN_VERSIONS = 6


@dataclass(frozen=True)
class ClassFigures:
    name: str
    count: int
    precision: float | None
    recall: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Answers:
    """How a build answers on the validation pictures: classes, how many there are, and pictures."""

    classes: Sequence[ClassFigures]
    class_count: int
    confusion: Markup
    curve: Markup
    of_boxes: bool


@dataclass(frozen=True)
class TargetRow:
    """What a device type and target have of each version that is shown; None where a version was not built for it."""

    device_type: str
    target: str
    builds: Sequence[Build | None]


def target_rows(by_version: Sequence[Sequence[Build]]) -> list[TargetRow]:
    """Return one row for each device type and target that any version (each with its builds) was built for."""
    found = [{(build.device_type, build.target): build for build in builds} for builds in by_version]
    keys = sorted({key for version in found for key in version})
    return [TargetRow(*key, [version.get(key) for version in found]) for key in keys]


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/models/{model}/builds")
    def matrix(request: Request, model: str, page: str = "") -> HTMLResponse:
        versions, older = hub.models.versions(model, _SHOWN_VERSIONS, page)
        if not versions:
            raise NotFound(
                f"there is no version of {model!r} to show builds of; its project's page says what is under way"
            )
        builds = [everything(partial(hub.builds.list, each.name, 0)) for each in versions]
        return render(
            request,
            "builds.html",
            live=f"builds/models/{model}/",
            model=model,
            versions=versions,
            rows=target_rows(builds),
            older=older,
            first=not page,
        )

    @pages.get("/models/{model}/versions/{number}/builds/{build}")
    def one(request: Request, model: str, number: int, build: str) -> HTMLResponse:
        found = hub.builds.get(_name(model, number, build))
        manifest = json.loads(hub.builds.manifest_text(found.name)) if found.bundle else None
        log = hub.builds.log(found.name)
        return render(
            request,
            "build.html",
            live=f"builds/{found.name}",
            build=found,
            model=model,
            number=number,
            objection=objection_to(found),
            answers=_answers(manifest or {}),
            log=log[-_SHOWN_LETTERS:],
            log_is_cut=len(log) > _SHOWN_LETTERS,
            manifest=json.dumps(manifest, indent=1, ensure_ascii=False)[:_SHOWN_LETTERS] if manifest else "",
        )

    @pages.post("/models/{model}/versions/{number}/builds")
    async def start(
        model: str,
        number: int,
        device_type: Annotated[str, Form()],
        target: Annotated[str, Form()],
        tuning_minutes: Annotated[str, Form()] = "",
        tuning_on: Annotated[str, Form()] = "",
    ) -> RedirectResponse:
        tuning = _tuning(tuning_minutes, tuning_on)
        return _to(hub.builds.start(f"models/{model}/versions/{number}", device_type, target, tuning).name)

    @pages.post("/models/{model}/versions/{number}/builds/{build}/cancel")
    async def cancel(model: str, number: int, build: str) -> RedirectResponse:
        return _to(hub.builds.cancel(_name(model, number, build)).name)

    @pages.post("/models/{model}/versions/{number}/builds/{build}/override")
    async def override(model: str, number: int, build: str, reason: Annotated[str, Form()] = "") -> RedirectResponse:
        return _to(hub.builds.override(_name(model, number, build), signature(""), reason).name)

    @pages.post("/models/{model}/versions/{number}/builds/{build}/choose")
    async def choose(model: str, number: int, build: str) -> RedirectResponse:
        return _to(hub.builds.choose(_name(model, number, build)).name)

    return pages


def _tuning(minutes: str, on: str) -> BuildTuning | None:
    """Return the tuning that the form asks for; a field that was left empty asks for none."""
    try:
        wanted = float(minutes or 0)
    except ValueError:
        raise InvalidInput(f"{minutes!r} is not a number of minutes") from None
    return asked_tuning(wanted, TuningSite.HUB if on == "hub" else None, "") if wanted else None


def _answers(manifest: Mapping[str, Any]) -> Answers | None:
    """Return how the build answers, as its manifest tells; None where an earlier version of the hub made it."""
    judged = manifest.get("judged") or {}
    names = [str(name) for name in manifest.get("classes") or ()]
    support = judged.get("support") or []
    if not support:
        return None
    columns = [judged.get(figure) or [None] * len(support) for figure in ("precision", "recall", "average_precision")]
    rows = [
        ClassFigures(
            names[place] if place < len(names) else f"class {place}", count, *(column[place] for column in columns)
        )
        for place, count in enumerate(support)
    ]
    return Answers(
        # The worst first: those are what people look for.
        sorted(rows, key=lambda row: (row.recall is None, row.recall or 0.0))[:_SHOWN_CLASSES],
        len(rows),
        confusion(judged.get("confusion") or [], names),
        precision_recall(judged.get("curve") or {}),
        "average_precision" in judged,
    )


def _name(model: str, number: int, build: str) -> str:
    return f"models/{model}/versions/{number}/builds/{build}"


def _to(name: str) -> RedirectResponse:
    return RedirectResponse(f"/{quote(name)}", status_code=303)
