"""Builds over REST."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, PlainTextResponse, Response
from pydantic import BaseModel
from starlette.background import BackgroundTask

from milonga_hub.builds.models import Build
from milonga_hub.builds.packing import example_of, pack
from milonga_hub.builds.rules import asked_tuning
from milonga_hub.builds.service import BuildService
from milonga_hub.builds.values import TuningSite
from milonga_hub.callers import seen_projects, signature
from milonga_hub.web.views import PageSize, PageToken, files

_ONE = "/models/{model}/versions/{number}/builds/{build}"


class BuildPage(BaseModel):
    builds: list[Build]
    next_page_token: str


class NewBuild(BaseModel):
    device_type: str
    # Engine and precision, for example "openvino/int8".
    target: str
    # How long its kernels are tuned first, 0 for not at all; where, on devices if it is not said; and on which device.
    tuning_minutes: float = 0.0
    tuning_site: TuningSite | None = None
    tuning_device: str = ""


class NewOverride(BaseModel):
    # Who is signed in, unless the hub's local key is used.
    by: str = ""
    reason: str


def router(builds: BuildService) -> APIRouter:
    api = APIRouter(tags=["builds"])
    _add_reading(api, builds)
    _add_files(api, builds)
    _add_verbs(api, builds)
    return api


def _name(model: str, number: int, build: str) -> str:
    return f"models/{model}/versions/{number}/builds/{build}"


def _add_reading(api: APIRouter, builds: BuildService) -> None:
    @api.get("/builds")
    async def list_builds(model_version: str = "", page_size: PageSize = 0, page_token: PageToken = "") -> BuildPage:
        """List builds of one model version or of all."""
        found, token = builds.list(model_version, page_size, page_token, seen_projects())
        return BuildPage(builds=found, next_page_token=token)

    @api.get(_ONE)
    async def get_build(model: str, number: int, build: str) -> Build:
        return builds.get(_name(model, number, build))

    @api.get(f"{_ONE}/log", response_class=PlainTextResponse)
    def get_build_log(model: str, number: int, build: str) -> PlainTextResponse:
        """Send what was done and what the engine printed."""
        return PlainTextResponse(builds.log(_name(model, number, build)))

    @api.get(f"{_ONE}/manifest")
    def get_build_manifest(model: str, number: int, build: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(builds.manifest_text(_name(model, number, build)))
        return manifest


def _add_files(api: APIRouter, builds: BuildService) -> None:
    @api.get(f"{_ONE}/example", response_class=Response, responses=files("text/x-python"))
    async def get_build_example(model: str, number: int, build: str) -> PlainTextResponse:
        """Send a program that runs the bundle with numpy, Pillow and its engine alone."""
        text = await asyncio.to_thread(example_of, builds, _name(model, number, build))
        attached = {"Content-Disposition": 'attachment; filename="example.py"'}
        return PlainTextResponse(text, media_type="text/x-python", headers=attached)

    @api.get(f"{_ONE}/bundle", response_class=Response, responses=files("application/zip"))
    async def get_build_bundle(model: str, number: int, build: str) -> FileResponse:
        """Send the bundle as a zip file, with its program."""
        scratch = tempfile.TemporaryDirectory(prefix="milonga-")
        packed = Path(scratch.name) / "bundle.zip"
        try:
            await asyncio.to_thread(pack, builds, _name(model, number, build), packed)
        except BaseException:
            scratch.cleanup()
            raise
        filename = f"{model}-v{number}-{build.replace(':', '-')}.zip"
        return FileResponse(packed, filename=filename, background=BackgroundTask(scratch.cleanup))


def _add_verbs(api: APIRouter, builds: BuildService) -> None:
    @api.post("/models/{model}/versions/{number}/builds", status_code=201)
    async def start_build(model: str, number: int, body: NewBuild) -> Build:
        """Build a device type's subnet for one more target, outside a run."""
        tuning = asked_tuning(body.tuning_minutes, body.tuning_site, body.tuning_device)
        return builds.start(f"models/{model}/versions/{number}", body.device_type, body.target, tuning)

    @api.post(f"{_ONE}:cancel")
    async def cancel_build(model: str, number: int, build: str) -> Build:
        """End a build that is made outside a run."""
        return builds.cancel(_name(model, number, build))

    @api.post(f"{_ONE}:override")
    async def override_build(model: str, number: int, build: str, body: NewOverride) -> Build:
        """Allow a build that is not verified on devices; the record keeps who, when and why."""
        return builds.override(_name(model, number, build), signature(body.by), body.reason)

    @api.post(f"{_ONE}:choose")
    async def choose_build(model: str, number: int, build: str) -> Build:
        """Make this the build that devices of its type get."""
        return builds.choose(_name(model, number, build))
