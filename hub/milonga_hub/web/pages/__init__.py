"""The dashboard: pages made on the server, one file for each noun."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from milonga_hub.web.pages import (
    alert_channels,
    alert_rules,
    alerts,
    builds,
    datasets,
    devices,
    docs,
    hubs,
    labelling,
    models,
    monitoring,
    network,
    new_device,
    new_model,
    new_project,
    overview,
    policies,
    projects,
    rollouts,
    runs,
    search,
    settings,
    sign_in,
    sign_in_provider,
    webhooks,
)
from milonga_hub.web.pages.page import error_page
from milonga_hub.web.services import HubServices

_STATIC = Path(__file__).parent.parent / "static"


def mount(app: FastAPI, hub: HubServices) -> None:
    """Add all pages to the application; they are for people and not part of the API."""
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.include_router(docs.router(app), include_in_schema=False)
    for page in (
        overview,
        devices,
        new_device,
        datasets,
        projects,
        new_project,
        new_model,
        runs,
        search,
        models,
        builds,
        network,
        rollouts,
        monitoring,
        alerts,
        alert_rules,
        alert_channels,
        labelling,
        settings,
        policies,
        webhooks,
        hubs,
        sign_in,
        sign_in_provider,
    ):
        app.include_router(page.router(hub), include_in_schema=False)


__all__ = ["error_page", "mount"]
