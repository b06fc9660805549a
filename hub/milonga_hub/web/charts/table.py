"""The figures behind a picture, carried inside it as CSV, so that people take them along."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime

from markupsafe import Markup

Cell = str | float | datetime | bool | None
# Spreadsheets run what begins so; a quote before it makes it a text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(rows: Iterable[Sequence[Cell]]) -> str:
    """Return the rows, the first of them names, as CSV; what is not known is empty, times are ISO 8601."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_said(cell) for cell in row] for row in rows)
    return text.getvalue()


def figures(rows: Iterable[Sequence[Cell]]) -> Markup:
    """Return the rows as the element in which a picture carries them."""
    return Markup("<metadata>{}</metadata>").format(as_csv(rows))


def carrying(svg: str, rows: Iterable[Sequence[Cell]]) -> Markup:
    """Return a picture that was stored as SVG, with figures in it."""
    return Markup(f"{svg.removesuffix('</svg>')}{figures(rows)}</svg>") if svg else Markup("")  # noqa: S704 (drawn by the hub)


def _said(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, datetime):
        return cell.isoformat()
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(_FORMULA) else cell
    return f"{cell:.10g}"
