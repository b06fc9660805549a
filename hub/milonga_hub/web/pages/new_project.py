"""A project from five questions: the form, what its answers become, and the run that begins."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from milonga_hub.callers import leave_unrecorded
from milonga_hub.devices.selectors import parse
from milonga_hub.devices.values import Outline
from milonga_hub.errors import InvalidInput, MilongaError, NotFound
from milonga_hub.projects import rules
from milonga_hub.projects.models import ProjectSpec, RolloutSpec
from milonga_hub.projects.rules_questions import Answers, Priority, document, problems, selector_of, spec_of
from milonga_hub.runs.models import Trigger
from milonga_hub.web.language import N_
from milonga_hub.web.language import gettext as _
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices

OWN, NONE = "own", "none"
# Milliseconds for one picture, and what that is for.
SPEEDS = (
    ("33", N_("as a video runs: 30 pictures a second (33 ms each)")),
    ("100", N_("at once for people: 10 a second (100 ms)")),
    ("1000", N_("one a second (1000 ms)")),
    (NONE, N_("it does not matter")),
    (OWN, N_("my own limit:")),
)
# Megabytes of a model.
SIZES = (("1", "1 MB"), ("5", "5 MB"), ("25", "25 MB"), (NONE, N_("it does not matter")), (OWN, N_("my own limit:")))
PRIORITIES = (
    (Priority.BALANCED, N_("a balance"), N_("the most accurate network that keeps to the limits above")),
    (Priority.ACCURACY, N_("accuracy"), N_("more pixels and a longer training; builds may hardly lose any of it")),
    (Priority.SPEED, N_("speed"), N_("half of the time above, and fewer pixels")),
    (Priority.SIZE, N_("size"), N_("half of the size above")),
)
# Whether a person says so before a better version goes out.
ASK, GO = "ask", "go"
_MB = 1_000_000
_LONGEST_SOAK_SECONDS = 30 * 86400


@dataclass
class Read:
    """The form as it was sent: what it means so far, and what is wrong by question."""

    given: Mapping[str, str] = field(default_factory=dict)
    types: tuple[str, ...] = ()
    wrong: dict[str, str] = field(default_factory=dict)
    spec: ProjectSpec | None = None
    devices: list[Outline] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.given.get("name", "").strip()

    @property
    def text(self) -> str:
        """Return the project as YAML, as far as it is known."""
        return "" if self.spec is None else document(self.name or "NAME", self.spec)


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/new/projects")
    async def new(request: Request, dataset: str = "") -> HTMLResponse:
        given = {"dataset": dataset, "name": dataset, "fast": "100", "small": NONE, "priority": Priority.BALANCED.value}
        given |= {"rollout": ASK, "soak_seconds": f"{RolloutSpec().soak_seconds:g}"}
        read = await asyncio.to_thread(_read, hub, FormData(given))
        # Nobody has answered anything wrongly yet.
        read.wrong.clear()
        return _page(request, hub, read)

    @pages.post("/new/projects")
    async def answer(request: Request) -> Response:
        """Check the answers, and unless no more is asked for, apply them and start the first run."""
        form = await request.form()
        # In a thread: a large data set takes its time to look at.
        read = await asyncio.to_thread(_read, hub, form)
        if form.get("check"):
            leave_unrecorded()
            return _page(request, hub, read)
        if read.wrong or read.spec is None:
            return _page(request, hub, read, status=400)
        try:
            project, _ = hub.projects.apply(read.name, read.spec)
            key = f"apply:{project.name}:{project.spec_generation}"
            run = hub.runs.start(project.name, Trigger.APPLY, "new project", key)
        except MilongaError as error:
            read.wrong["all"] = str(error)
            return _page(request, hub, read, status=400)
        return RedirectResponse(f"/runs/{quote(run.project, safe='')}/{run.number}", status_code=303)

    return pages


def _page(request: Request, hub: HubServices, read: Read, status: int = 200) -> HTMLResponse:
    return render(
        request,
        "new_project.html",
        script="form",
        status=status,
        read=read,
        datasets=everything(lambda token: hub.datasets.list(page_token=token)),
        types=everything(lambda token: hub.devices.types(page_token=token)),
        speeds=SPEEDS,
        sizes=SIZES,
        priorities=PRIORITIES,
        own=OWN,
    )


def _read(hub: HubServices, form: FormData) -> Read:
    given = {key: value for key, value in form.items() if isinstance(value, str)}
    read = Read(given, tuple(each for each in form.getlist("types") if isinstance(each, str)))
    _check_name(hub, read)
    latency_ms = _limit(read, "fast", "latency_ms", N_("milliseconds"))
    megabytes = _limit(read, "small", "model_mb", N_("megabytes"))
    soak_seconds = _soak(read)
    _check_where(hub, read)
    try:
        dataset = hub.datasets.get(given.get("dataset", ""))
    except NotFound:
        read.wrong["dataset"] = _("Choose a data set.")
        return read
    sizes = hub.datasets.sizes(hub.datasets.latest(dataset.name).name)
    answers = Answers(
        dataset=dataset.name,
        task=dataset.task,
        device_types=read.types,
        selector=given.get("selector", ""),
        latency_ms=latency_ms,
        model_bytes=None if megabytes is None else max(1, round(megabytes * _MB)),
        priority=_priority(given.get("priority", "")),
        typical_px=min(sizes.typical) if sizes else None,
        approval=given.get("rollout", ASK) != GO,
        soak_seconds=soak_seconds,
    )
    read.wrong |= {question: words for question, words in problems(answers).items() if question not in read.wrong}
    if not read.wrong.keys() & {"fast", "small", "where", "rollout"}:
        read.spec = spec_of(answers)
    return read


def _check_name(hub: HubServices, read: Read) -> None:
    try:
        rules.check(read.name, ProjectSpec(dataset="any"))
        hub.projects.get(read.name)
    except InvalidInput as error:
        read.wrong["name"] = str(error) if read.name else _("Give it a name.")
    except NotFound:
        return
    else:
        read.wrong["name"] = _("There is a project %(name)s already; choose another name.", name=read.name)


def _check_where(hub: HubServices, read: Read) -> None:
    try:
        parse(read.given.get("selector", ""))
        read.devices = hub.devices.outlines(selector_of(read.types, read.given.get("selector", "")), with_revoked=False)
    except InvalidInput as error:
        read.wrong["where"] = str(error)


def _limit(read: Read, question: str, own: str, unit: str) -> float | None:
    """Return the limit that was chosen or written; None where none binds, or where what is written is no number."""
    chosen = read.given.get(question, NONE)
    text = read.given.get(own, "") if chosen == OWN else chosen
    if text == NONE:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if 0 < value <= _MB:
        return value
    read.wrong[question] = _(
        "Write the limit as a number of %(unit)s, above 0 and at most %(most)s.", unit=_(unit), most=f"{_MB:,}"
    )
    return None


def _soak(read: Read) -> float:
    """Return the seconds for which each wave must stay healthy."""
    usual = RolloutSpec().soak_seconds
    try:
        value = float(read.given.get("soak_seconds", usual))
    except ValueError:
        value = -1.0
    if 0 <= value <= _LONGEST_SOAK_SECONDS:
        return value
    read.wrong["rollout"] = _("Write the seconds as a number from 0 to %(most)s.", most=f"{_LONGEST_SOAK_SECONDS:,}")
    return usual


def _priority(text: str) -> Priority:
    return Priority(text) if text in set(Priority) else Priority.BALANCED
