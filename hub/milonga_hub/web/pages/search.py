"""The search of a run: the networks that it found for a device type, to narrow down and to look at one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from milonga_hub.errors import NotFound
from milonga_hub.runs.models import Candidate
from milonga_hub.runs.rules import ENDED
from milonga_hub.web import words
from milonga_hub.web.axes import HIGH, LOW, Axis, Range, axes, ranges, wanted
from milonga_hub.web.charts.agreement import agreement, scatter
from milonga_hub.web.charts.networks import Network
from milonga_hub.web.charts.parallel import parallel
from milonga_hub.web.charts.pareto import pareto
from milonga_hub.web.language import gettext as _
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.pages.runs import drawn, limits_of
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/runs/{project}/{number}/search")
    def search(request: Request, project: str, number: int, type: str = "", network: str = "") -> HTMLResponse:
        """Show one device type, the first unless it is named; in a thread of its own, as drawings are large."""
        run = hub.runs.get(f"projects/{project}/runs/{number}")
        found = everything(lambda token: hub.runs.candidates(run.name, page_token=token))
        types = sorted({candidate.device_type for candidate in found})
        if type and type not in types:
            raise NotFound(f"{run.name} has no networks for {type}; it has some for: {', '.join(types) or 'none yet'}")
        shown_type = type or next(iter(types), "")
        candidates = sorted((each for each in found if each.device_type == shown_type), key=_rank)
        along = axes(candidates, run.task.measure)
        asked, wrong = ranges(along, request.query_params)
        networks = _networks(f"/runs/{quote(project, safe='')}/{number}/search", candidates, along, asked, network)
        selected = next((each for each in candidates if networks[each.key].selected), None)
        limit_ms = limits_of(hub, run, shown_type).latency_ms if shown_type else None
        return render(
            request,
            "search.html",
            live=run.name,
            script="brush",
            run=run,
            ended=run.state in ENDED,
            types=types,
            type=shown_type,
            selected=selected,
            drawing=drawn(selected),
            wrong=wrong,
            axes=along,
            ranges=asked,
            all_of_it=Range(),
            candidates=candidates,
            networks=networks,
            shown_count=sum(not each.out for each in networks.values()),
            values=_values(candidates, along),
            coordinates=parallel(along, candidates, networks, asked),
            front=pareto(shown_type, candidates, limit_ms, run.task.measure, networks),
            scatter=scatter(shown_type, candidates, networks),
            agreement=agreement(candidates),
        )

    return pages


def _rank(candidate: Candidate) -> tuple[bool, bool, float]:
    ms = candidate.measured_ms or candidate.predicted_ms or 0.0
    return (not candidate.chosen, candidate.measured_ms is None, ms)


def name_of(candidate: Candidate) -> str:
    """Return what an address calls the network: within a run and a device type, this much of the digest is enough."""
    return f"{words.short(candidate.subnet)}-{candidate.precision}"


def _networks(
    address: str,
    candidates: Sequence[Candidate],
    along: Sequence[Axis],
    asked: Mapping[str, Range],
    selected: str,
) -> dict[str, Network]:
    """Return how pictures and the table show each, by its key; the one that was chosen is selected unless another is."""
    narrowed = {
        name + end: f"{value:g}"
        for name, range_ in asked.items()
        for end, value in ((LOW, range_.low), (HIGH, range_.high))
        if value is not None
    }
    chosen = next((name_of(each) for each in candidates if each.chosen), "")
    return {
        each.key: Network(
            number=number,
            name=_("%(network)s in %(precision)s", network=words.short(each.subnet), precision=each.precision),
            address=f"{address}?{urlencode({'type': each.device_type, 'network': name_of(each), **narrowed})}",
            out=not wanted(each, along, asked),
            selected=name_of(each) == (selected or chosen),
        )
        for number, each in enumerate(candidates)
    }


def _values(candidates: Sequence[Candidate], along: Sequence[Axis]) -> dict[str, str]:
    """Return each network's figures by its key, in the order of the axes and parted by spaces; "-" is not known."""
    return {
        each.key: " ".join("-" if (value := axis.value(each)) is None else f"{value:.6g}" for axis in along)
        for each in candidates
    }
