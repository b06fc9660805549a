"""What the jobs of a run took of their machines over time: processors, memory, and a GPU's memory where there was one."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from milonga_hub.traces import JobTrace
from milonga_hub.web.charts.lines import COLOURS, Series, lines
from milonga_hub.web.language import gettext as _


def resources(told: Sequence[JobTrace]) -> list[tuple[str, Markup]]:
    """Return (title, picture) of what is known; the jobs that took longest have lines of their own colours."""
    longest = sorted(told, key=lambda each: each.lines[0].at - each.lines[-1].at)[:COLOURS]
    shown = [each for each in told if each in longest]
    cpu = [Series(each.job, each.cpu_percent, colour) for colour, each in enumerate(shown)]
    kinds = ((_("Memory"), "memory_bytes"), (_("Memory of the GPU, the most"), "gpu_memory_bytes"))
    pictures = [(_("Processor, 100 % is one core"), lines(_("Processor"), "%", cpu))]
    for title, kind in kinds:
        found = [
            Series(each.job, [(at, value / 1e6) for at, value in each.bytes_of(kind)], colour)
            for colour, each in enumerate(shown)
        ]
        pictures.append((title, lines(title, "MB", found)))
    return [(title, picture) for title, picture in pictures if picture]
