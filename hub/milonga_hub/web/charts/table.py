"""The figures behind a picture, carried inside it as CSV, so that people take them along."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime

Cell = str | float | datetime | bool | None
# Spreadsheets run what begins so; a quote before it makes it a text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(rows: Iterable[Sequence[Cell]]) -> str:
    """Return the rows, the first of them names, as CSV; what is not known is empty, times are ISO 8601."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_said(cell) for cell in row] for row in rows)
    return text.getvalue()


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
