"""One model version: where it comes from and went, its builds, and how it stands against another version."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from milonga_compiler.engines import ENGINES
from milonga_compiler.target import known_targets

from milonga_hub.builds.models import Build
from milonga_hub.errors import NotFound
from milonga_hub.models.models import ModelVersion
from milonga_hub.rollouts.models import Rollout
from milonga_hub.web import words
from milonga_hub.web.charts.lineage import Box, lineage
from milonga_hub.web.language import gettext as _
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices

# That are named, of those that serve a version; the list of devices has all.
_MOST_DEVICES = 200

# Newest rollouts in the picture; the list below has all of them.
_DRAWN_ROLLOUTS = 8


@dataclass(frozen=True)
class Compared:
    """The builds that a device type gets of two versions; None where it gets none."""

    device_type: str
    now: Build | None
    before: Build | None


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/models/{model}/versions/{number}")
    async def one(request: Request, model: str, number: int, against: int | None = None) -> HTMLResponse:
        version = hub.models.get_version(f"models/{model}/versions/{number}")
        builds = everything(lambda token: hub.builds.list(version.name, page_token=token))
        rollouts = hub.rollouts.headlines(model_version=version.name)[0]
        devices = hub.devices.outlines(active_version=version.name, with_revoked=False)
        versions = everything(lambda token: hub.models.versions(model, page_token=token))
        others = sorted((each.number for each in versions if each.number != number), reverse=True)
        if against is not None and against not in others:
            raise NotFound(f"{model} has no version {against} to compare v{number} with; it has {_listed(others)}")
        # The one before, unless another is named.
        against = against if against is not None else next((each for each in others if each < number), None)
        return render(
            request,
            "model.html",
            live=f"rollouts/,devices/,builds/{version.name}",
            request_id=secrets.token_hex(16),
            version=version,
            builds=sorted(builds, key=lambda each: (each.device_type, not each.chosen, each.name)),
            rollouts=rollouts,
            devices=devices[:_MOST_DEVICES],
            device_count=len(devices),
            types=hub.builds.orders.types(version.name),
            targets=known_targets(),
            tuned=[name for name, engine in ENGINES.items() if engine.tuned],
            lineage=_lineage(version, builds, rollouts),
            others=others,
            against=against,
            compared=_compared(hub, version, builds, against) if against is not None else [],
        )

    return pages


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(f"v{number}" for number in numbers) or "no other"


def _lineage(version: ModelVersion, builds: Sequence[Build], rollouts: Sequence[Rollout]) -> Markup:
    """Draw data set, run, supernet, subnets, the builds that were chosen, and rollouts."""
    chosen = [build for build in builds if build.chosen]
    return lineage(
        [
            (_("data set"), _dataset(version)),
            (_("run"), _run(version)),
            (_("file"), _file(version)),
            (
                _("supernet"),
                [Box("supernet", words.short(version.supernet), after=["run"])] if version.supernet else [],
            ),
            (_("networks") if version.imported else _("subnets"), _subnets(version)),
            (
                _("builds"),
                [
                    Box(
                        build.name,
                        build.target,
                        build.device_type,
                        f"/{quote(build.name)}",
                        [f"subnet {build.device_type}"],
                    )
                    for build in chosen
                ],
            ),
            (
                _("rollouts"),
                [
                    Box(
                        each.id,
                        each.id,
                        words.state(each.state),
                        f"/rollouts/{quote(each.id, safe='')}",
                        [build.name for build in chosen],
                    )
                    for each in rollouts[:_DRAWN_ROLLOUTS]
                ],
            ),
        ]
    )


def _dataset(version: ModelVersion) -> list[Box]:
    if not version.dataset_version:
        return []
    address = f"/datasets/{quote(version.dataset_version.split('/')[1], safe='')}"
    return [Box("dataset", words.version(version.dataset_version), address=address)]


def _run(version: ModelVersion) -> list[Box]:
    if version.run.count("/") != 3:
        return []
    _, project, _, number = version.run.split("/")
    return [
        Box("run", words.version(version.run), address=f"/runs/{quote(project, safe='')}/{number}", after=["dataset"])
    ]


def _file(version: ModelVersion) -> list[Box]:
    if version.imported is None:
        return []
    return [Box("file", version.imported.file_name, version.imported.by, after=["run"])]


def _subnets(version: ModelVersion) -> list[Box]:
    before = ["supernet"] if version.imported is None else ["file"]
    return [
        Box(f"subnet {name}", words.short(digest), name, after=before)
        for name, digest in sorted(version.subnets.items())
    ]


def _compared(hub: HubServices, version: ModelVersion, builds: Sequence[Build], against: int) -> list[Compared]:
    now = {build.device_type: build for build in builds if build.chosen}
    before = hub.builds.chosen(f"models/{version.model}/versions/{against}")
    return [Compared(name, now.get(name), before.get(name)) for name in sorted({*now, *before})]
