"""Builds over REST."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from milonga_hub.builds.models import Build
from milonga_hub.builds.service import BuildService
from milonga_hub.web.views import PageSize, PageToken


class BuildPage(BaseModel):
    builds: list[Build]
    next_page_token: str


def router(builds: BuildService) -> APIRouter:
    api = APIRouter(tags=["builds"])

    @api.get("/builds")
    async def list_builds(model_version: str = "", page_size: PageSize = 0, page_token: PageToken = "") -> BuildPage:
        """List builds of one model version or of all."""
        found, token = builds.list(model_version, page_size, page_token)
        return BuildPage(builds=found, next_page_token=token)

    @api.get("/models/{model}/versions/{number}/builds/{build}")
    async def get_build(model: str, number: int, build: str) -> Build:
        return builds.get(f"models/{model}/versions/{number}/builds/{build}")

    return api
