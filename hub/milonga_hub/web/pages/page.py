"""What all pages share: the template environment, words for figures, and the page for errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from milonga_hub import callers
from milonga_hub.paging import all_rows
from milonga_hub.web import language, words
from milonga_hub.web.pages.ways import advice, ways

T = TypeVar("T")

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent.parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.i18n"],
)
_ENVIRONMENT.filters.update(words.FILTERS)
_ENVIRONMENT.filters |= {"advice": advice, "ways": ways}
# The extension adds this method, which no type tells of.
_ENVIRONMENT.install_gettext_callables(  # type: ignore[attr-defined]
    language.template_gettext,
    language.template_ngettext,
    newstyle=True,
    pgettext=language.pgettext,
    npgettext=language.template_npgettext,
)


@dataclass(frozen=True)
class Part:
    """What of a page is fetched again when something changes: an element by its id, from another address."""

    id: str
    address: str


def render(
    request: Request,
    template: str,
    *,
    live: str = "",
    live_part: Part | None = None,
    script: str = "",
    status: int = 200,
    **values: Any,
) -> HTMLResponse:
    """Return the page.

    `live` names the topics of events after which it fetches itself again, or its `live_part`; `script` what else it runs.
    """
    text = _ENVIRONMENT.get_template(template).render(
        path=request.url.path,
        live=live,
        live_part=live_part,
        script=script,
        signed_in=callers.current(),
        language=language.spoken(),
        **values,
    )
    # Pages show the state of now; a back button must not show that of then.
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})


def error_page(request: Request, status: int, message: str) -> HTMLResponse:
    return render(request, "error.html", status=status, code=status, message=message, back=_came_from(request))


def _came_from(request: Request) -> str:
    """Return the page of the hub with the form that was refused, "" where there was none."""
    page = urlsplit(request.headers.get("referer", ""))
    # With two slashes it would be another machine's.
    if request.method != "POST" or page.netloc != request.url.netloc or not re.match("/(?!/)", page.path):
        return ""
    return f"{page.path}?{page.query}" if page.query else page.path


def everything(listing: Callable[[str], tuple[list[T], str]], at_most: int = 1000) -> list[T]:
    """Return the rows of all pages of a list, up to a number that a page can still show."""
    return [*islice(all_rows(listing), at_most)]
