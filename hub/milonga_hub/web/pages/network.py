"""The network of a build as a graph: modules from the input down, each with its operations, shapes and costs."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from milonga_hub.builds.graph import graph_of, kinds, parts, stages
from milonga_hub.errors import FailedPrecondition
from milonga_hub.web.charts.flow import flow, shape
from milonga_hub.web.pages.page import render
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/models/{model}/versions/{number}/builds/{build}/network")
    def network(request: Request, model: str, number: int, build: str) -> HTMLResponse:
        """Read the build's ONNX file, in a thread of its own: the first time takes seconds."""
        found = hub.builds.get(f"models/{model}/versions/{number}/builds/{build}")
        try:
            read_from, path = hub.builds.onnx(found.name)
            graph = graph_of(path)
        except (FailedPrecondition, ValueError) as error:
            return render(request, "no_network.html", build=found, model=model, number=number, why=str(error))
        modules = parts(graph)
        return render(
            request,
            "network.html",
            build=found,
            read_from=read_from,
            model=model,
            number=number,
            graph=graph,
            stages=stages(modules),
            picture=flow(graph.input_shape, modules),
            kinds=kinds,
            shape=shape,
        )

    return pages
