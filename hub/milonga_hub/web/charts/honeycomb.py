"""The fleet as a honeycomb: one cell for each device, coloured by how it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from markupsafe import Markup, escape

from milonga_hub.web.charts.table import figures
from milonga_hub.web.language import gettext as _

_RADIUS = 14.0
_GAP = 2.5
_MOST_COLUMNS = 36
# A honeycomb about twice as wide as high.
_WIDENESS = 2.0


@dataclass(frozen=True)
class Cell:
    """`health` is a class of style.css; `words` say the same."""

    device: str
    health: str
    words: str


def honeycomb(cells: Sequence[Cell]) -> Markup:
    """Return the picture, or nothing where there is no device. Every cell is a link to its device."""
    if not cells:
        return Markup("")
    columns = min(len(cells), _MOST_COLUMNS, math.ceil(math.sqrt(len(cells) * _WIDENESS)))
    across, down = math.sqrt(3) * _RADIUS + _GAP, 1.5 * _RADIUS + _GAP
    rows = math.ceil(len(cells) / columns)
    width, height = across * (columns + 0.5) + _GAP, down * (rows - 1) + 2 * _RADIUS + 2 * _GAP
    drawn = [
        _cell(
            cell,
            across * (index % columns + 0.5 + (index // columns) % 2 / 2),
            _RADIUS + _GAP + down * (index // columns),
        )
        for index, cell in enumerate(cells)
    ]
    return Markup(
        '<svg class="honeycomb" role="group" aria-label="{3}" viewBox="0 0 {0:.1f} {1:.1f}"'
        ' width="{0:.0f}" height="{1:.0f}">{2}{4}</svg>'
    ).format(
        width,
        height,
        Markup("").join(drawn),
        _("Devices by health"),
        figures([("device", "health"), *((cell.device, cell.words) for cell in cells)]),
    )


def _cell(cell: Cell, x: float, y: float) -> Markup:
    corners = (math.radians(60 * corner - 30) for corner in range(6))
    points = " ".join(f"{x + _RADIUS * math.cos(at):.1f},{y + _RADIUS * math.sin(at):.1f}" for at in corners)
    address, words = f"/devices/{quote(cell.device, safe='')}", f"{cell.device}: {cell.words}"
    return Markup(
        '<a href="{}" aria-label="{}"><polygon class="cell {}" points="{}"><title>{}</title></polygon></a>'
    ).format(escape(address), words, cell.health, points, words)
