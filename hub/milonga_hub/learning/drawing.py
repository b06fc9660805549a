"""Draw a subnet: which of its family's choices it makes, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from milonga_hub.learning.spaces import Dimension, Space

# Pixels.
_BLOCK, _GAP, _HEIGHT, _TOP, _LINE = 34, 4, 64, 34, 13
_STAGE_GAP, _LETTER = 18, 6.2
_FEWEST_LETTERS = 9


def drawing(space: Space, encoding: Sequence[int]) -> str:
    """Return the subnet as SVG that takes its colour from the text around it.

    A stage is a group of bars, a block one bar; the taller it is, the larger the block's choices. Blocks that the depth
    leaves out are outlines. Choices of a whole stage stand above its bars.
    """
    values = space.values(space.canonical(encoding))
    without = set(space.unused(values))
    parts, x, whole = list[str](), 4.0, list[str]()
    for stage, dimensions in _stages(space).items():
        if not stage:
            whole = [f"{one.name} {said(values[one.name])}" for one in dimensions]
            continue
        drawn, width = _stage(stage, dimensions, values, without, x)
        parts += drawn
        x += width + _STAGE_GAP
    title = escape(space.describe(encoding))
    height = _TOP + _HEIGHT + 3 * _LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x:.0f} {height}" width="{x:.0f}" height="{height}"'
        f' role="img" aria-label="{title}" font-family="sans-serif" font-size="10" fill="currentColor"><title>{title}</title>'
        f"{_text(4, height - 4, ', '.join([space.name, *whole]))}{''.join(parts)}</svg>"
    )


def _stages(space: Space) -> dict[str, list[Dimension]]:
    """Return dimensions by what stands before their first dot, in order; "" for those of the whole network."""
    found: dict[str, list[Dimension]] = {}
    for one in space.dimensions:
        found.setdefault(one.name.partition(".")[0] if "." in one.name else "", []).append(one)
    return found


def _stage(
    stage: str, dimensions: Sequence[Dimension], values: Mapping[str, object], without: set[str], left: float
) -> tuple[list[str], float]:
    of_stage = [one for one in dimensions if one.name.count(".") == 1]
    blocks: dict[str, list[Dimension]] = {}
    for one in dimensions:
        if one.name.count(".") > 1:
            blocks.setdefault(one.name.rsplit(".", 1)[0], []).append(one)
    chosen = [f"{one.name.rpartition('.')[2]} {said(values[one.name])}" for one in of_stage if one.name not in without]
    parts = [_text(left, 10, stage), _text(left, 22, ", ".join(chosen), faint=True)]
    x = left
    for name, of_block in blocks.items() or {stage: of_stage}.items():
        parts += _bar(name, of_block, values, without, x)
        x += _BLOCK + _GAP
    return parts, max(x - left, _LETTER * max(len(stage), len(", ".join(chosen)), _FEWEST_LETTERS))


def _bar(
    name: str, dimensions: Sequence[Dimension], values: Mapping[str, object], without: set[str], x: float
) -> list[str]:
    if all(one.name in without for one in dimensions):
        return [_box(x, _TOP, _HEIGHT, 'fill="none" stroke="currentColor" stroke-opacity="0.3" stroke-dasharray="3 3"')]
    shares = [one.choices.index(values[one.name]) / max(1, len(one.choices) - 1) for one in dimensions]
    height = _HEIGHT * (0.25 + 0.75 * sum(shares) / len(shares))
    label = " x ".join(said(values[one.name]) for one in dimensions)
    title = f"<title>{escape(name)}: {escape(label)}</title>"
    box = _box(x, _TOP + _HEIGHT - height, height, 'fill-opacity="0.25" stroke="currentColor"', title)
    # Of a stage without blocks everything stands above already.
    return [box, _text(x, _TOP + _HEIGHT + _LINE, label)] if "." in name else [box]


def _box(x: float, y: float, height: float, look: str, inside: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{_BLOCK}" height="{height:.1f}" rx="3" {look}>{inside}</rect>'


def _text(x: float, y: float, words: str, faint: bool = False) -> str:
    look = ' fill-opacity="0.65"' if faint else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{look}>{escape(words)}</text>'


def said(value: object) -> str:
    """Return a choice as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
