"""What all pictures share: scales with round ticks, and SVG elements whose text is always escaped."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from milonga_hub.web.charts.table import Cell, figures


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels; `start` is where `low` lands."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(max(value, 1e-9))
        share = 0.5 if high == low else (at - low) / (high - low)
        # Far outside is drawn at the edge.
        return self.start + min(1.05, max(-0.05, share)) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return round values within the scale."""
        if self.logarithmic:
            return self._log_ticks(wanted)
        step = _round_step((self.high - self.low) / max(1, wanted))
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first
        return [round((first + i) * step, 12) for i in range(count + 1)]

    def _log_ticks(self, wanted: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
            found = [f * 10.0**power for power in powers for f in factors if self.low <= f * 10.0**power <= self.high]
            if len(found) >= min(3, wanted):
                return found
        return Scale(self.low, self.high, 0, 1).ticks(wanted)


def _round_step(rough: float) -> float:
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough - 1e-12)


def element(name: str, content: Markup | str = "", **attributes: object) -> Markup:
    """Return one SVG element. `cls` is its class; underscores in names become dashes."""
    words = "".join(
        f' {"class" if key == "cls" else key.replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    # Not Markup.format, which takes ten times as long, and a page has thousands of these.
    return Markup(f"<{name}{words}>{escape(content)}</{name}>")  # noqa: S704 (all but our own names is escaped)


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def text(x: float, y: float, words: object, cls: str = "", anchor: str = "start") -> Markup:
    return element("text", escape(str(words)), x=x, y=y, cls=cls or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, cls=cls)


def rect(x: float, y: float, width: float, height: float, cls: str, tip: str = "", rx: float = 0.0) -> Markup:
    return element("rect", titled(tip), x=x, y=y, width=max(0.0, width), height=max(0.0, height), rx=rx, cls=cls)


def circle(x: float, y: float, r: float, cls: str, tip: str = "") -> Markup:
    return element("circle", titled(tip), cx=x, cy=y, r=r, cls=cls)


def titled(words: str) -> Markup:
    """Return what is shown when the pointer rests on an element."""
    return element("title", escape(words)) if words else Markup("")


def path(points: Sequence[tuple[float, float]], cls: str) -> Markup:
    """Return a line through the points."""
    steps = " ".join(f"{'M' if i == 0 else 'L'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    return element("path", d=steps, cls=cls)


def picture(
    width: float,
    height: float,
    words: str,
    parts: Iterable[Markup],
    data: Iterable[Sequence[Cell]],
    links: bool = False,
) -> Markup:
    """Return the whole picture; `words` say what it shows to those who do not see it. Some have `links` in them.

    `data` are the figures behind it, the first row their names.
    """
    return element(
        "svg",
        Markup("").join(parts) + figures(data),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        cls="chart",
        # To screen readers an image is one thing, and a group holds what it holds.
        role="group" if links else "img",
        aria_label=words,
    )


def tick_text(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


def left_axis(scale: Scale, left: float, right: float, unit: str = "", percent: bool = False) -> list[Markup]:
    """Return grid lines with their values left of the picture."""
    parts = []
    for tick in scale.ticks(4):
        y = scale(tick)
        parts.append(line(left, y, right, y, "grid"))
        parts.append(text(left - 6, y + 4, _percent(tick) if percent else tick_text(tick), "tick", "end"))
    if unit:
        parts.append(text(4, min(scale.start, scale.end) - 10, unit, "tick"))
    return parts


def _percent(value: float) -> str:
    return f"{value * 100:.4g}%"


def bottom_axis(scale: Scale, y: float, unit: str = "", said: Callable[[float], str] = tick_text) -> list[Markup]:
    parts = [line(scale.start, y, scale.end, y, "axis")]
    for tick in scale.ticks(5):
        parts.append(line(scale(tick), y, scale(tick), y + 4, "axis"))
        parts.append(text(scale(tick), y + 17, said(tick), "tick", "middle"))
    if unit:
        parts.append(text(scale.end, y + 33, unit, "tick", "end"))
    return parts


def legend(names: Sequence[tuple[str, str]], x: float, y: float) -> list[Markup]:
    """Return a row of names with marks; each is (words, class of the mark)."""
    parts = []
    for words, cls in names:
        parts.append(line(x, y - 4, x + 16, y - 4, cls))
        parts.append(text(x + 23, y, words, "tick"))
        x += 40 + width_of(words)
    return parts


def width_of(words: str) -> float:
    """Return how many pixels the words take at the size of ticks, on the safe side: some scripts write in squares."""
    return sum(12.2 if unicodedata.east_asian_width(letter) in "WF" else 6.4 for letter in words)
