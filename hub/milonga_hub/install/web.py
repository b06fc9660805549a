"""What devices fetch before they have an agent: the script, an index of our wheels (PEP 503), and wheelhouses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from milonga_hub.blobs import digest_of_file
from milonga_hub.errors import InvalidInput, NotFound
from milonga_hub.install.wheelhouse import Kind, Platform, Wheelhouses, known_engines
from milonga_hub.install.wheels import SERVED, wheel_of

_SCRIPT = Path(__file__).with_name("install.sh")
# The address goes into a shell script: a name, an IPv4 or a bracketed IPv6 address, and maybe a port.
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def router(folder: Path, grpc_port: Callable[[], int]) -> APIRouter:
    """Serve the installation of agents; `folder` is where wheelhouses are."""
    routes = APIRouter()
    _add_script(routes, grpc_port)
    _add_index(routes)
    _add_wheelhouses(routes, Wheelhouses(folder))
    return routes


def _add_script(routes: APIRouter, grpc_port: Callable[[], int]) -> None:
    @routes.get("/install.sh")
    def script(request: Request) -> PlainTextResponse:
        """Return the script, with this hub's addresses as the caller reached it."""
        text = _SCRIPT.read_text(encoding="utf-8")
        addresses = {"@HUB_URL@": _base(request), "@HUB_GRPC@": _grpc_address(request, grpc_port())}
        for mark, value in {**addresses, "@ENGINES@": " ".join(known_engines())}.items():
            text = text.replace(mark, value)
        return PlainTextResponse(text, media_type="text/x-shellscript")


def host_of(request: Request) -> str:
    """Return name and port by which the caller reached the hub. Raises InvalidInput for what is not safe in a shell."""
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise InvalidInput("ask for this by the hub's name or address, for example http://HUB:8080/install.sh")
    return host


def _base(request: Request) -> str:
    return f"{request.url.scheme}://{host_of(request)}"


def _grpc_address(request: Request, port: int) -> str:
    return f"{re.sub(r':[0-9]+$', '', host_of(request))}:{port}"


def _add_index(routes: APIRouter) -> None:
    @routes.get("/simple/")
    def index() -> HTMLResponse:
        return _links((f"{name}/", name) for name in SERVED)

    @routes.get("/simple/{distribution}/")
    def project(distribution: str) -> HTMLResponse:
        wheel = wheel_of(_served(distribution))
        return _links([(f"{wheel.file_name}#sha256={wheel.sha256}", wheel.file_name)])

    @routes.get("/simple/{distribution}/{file_name}")
    def wheel(distribution: str, file_name: str) -> Response:
        made = wheel_of(_served(distribution))
        if file_name != made.file_name:
            raise NotFound(f"there is no {file_name} here, only {made.file_name}")
        return Response(made.content, media_type="application/octet-stream")


def _served(distribution: str) -> str:
    if distribution not in SERVED:
        raise NotFound(f"{distribution} is not among what this hub serves: {', '.join(SERVED)}")
    return distribution


def _add_wheelhouses(routes: APIRouter, wheelhouses: Wheelhouses) -> None:
    @routes.get("/wheelhouses/{platform}/{python}/")
    def wheelhouse(platform: Platform, python: str) -> HTMLResponse:
        wheels = wheelhouses.wheels(Kind(platform, python))
        if not wheels:
            raise NotFound(
                "there is no wheelhouse for this kind of device; run on the hub:"
                f" milonga agent-bundle --platform {platform} --python {python}"
            )
        return _links((f"{quote(path.name)}#{digest_of_file(path).replace(':', '=')}", path.name) for path in wheels)

    @routes.get("/wheelhouses/{platform}/{python}/{file_name}")
    def wheel(platform: Platform, python: str, file_name: str) -> FileResponse:
        found = [path for path in wheelhouses.wheels(Kind(platform, python)) if path.name == file_name]
        if not found:
            raise NotFound(f"there is no {file_name} in this wheelhouse")
        return FileResponse(found[0], media_type="application/octet-stream")


def _links(links: Iterable[tuple[str, str]]) -> HTMLResponse:
    lines = (f'<a href="{escape(target)}">{escape(name)}</a><br>' for target, name in links)
    return HTMLResponse("<!DOCTYPE html>\n<html><body>\n" + "\n".join(lines) + "\n</body></html>\n")
