"""Pages of lists, the same way everywhere: a page token is opaque and stays right while rows are added."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlmodel import Session
from sqlmodel.sql.expression import SelectOfScalar

from milonga_hub.errors import InvalidInput

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_FOREIGN_TOKEN = "page_token is not one that this hub gave out; leave it empty to start over"  # noqa: S105


def of_projects(statement: Any, project: Any, projects: Collection[str] | None) -> Any:
    """Return the statement for rows whose column `project` is one of these alone; None is for all."""
    return statement if projects is None else statement.where(project.in_(sorted(projects)))


def all_rows(listing: Callable[[str], tuple[Sequence[T], str]]) -> Iterator[T]:
    """Yield the rows of all pages; `listing` returns those of a page token with the next one, as lists of services do."""
    token = ""
    while True:
        rows, token = listing(token)
        yield from rows
        if not token:
            return


def page(
    session: Session,
    statement: SelectOfScalar[T],
    key: Any,
    page_size: int,
    page_token: str,
    *,
    newest_first: bool = False,
) -> tuple[list[T], str]:
    """Return one page ordered by the unique column `key`, and the token of the next page ("" at the end)."""
    if page_size < 0:
        raise InvalidInput("page_size must not be negative")
    size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    if page_token:
        after = _value(key, _decode(page_token))
        statement = statement.where(key < after if newest_first else key > after)
    statement = statement.order_by(key.desc() if newest_first else key.asc()).limit(size + 1)
    rows = list(session.exec(statement))
    if len(rows) <= size:
        return rows, ""
    return rows[:size], _encode(str(getattr(rows[size - 1], key.key)))


def _value(key: Any, text: str) -> Any:
    # SQLModel's own text type and UTC_TIME decorate the type that knows its Python type.
    kind = getattr(key.type, "impl_instance", key.type).python_type
    try:
        return datetime.fromisoformat(text) if kind is datetime else kind(text)
    except ValueError as error:
        raise InvalidInput(_FOREIGN_TOKEN) from error


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(token: str) -> str:
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(_FOREIGN_TOKEN) from error


__all__ = ["DEFAULT_PAGE_SIZE", "MAX_PAGE_SIZE", "page"]
