"""Networks in pictures: each leads to its own page, and is known by the same number in every picture and table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from milonga_hub.runs.models import Candidate
from milonga_hub.web.charts.drawing import element
from milonga_hub.web.charts.table import Cell


@dataclass(frozen=True)
class Network:
    """`address` leads to it; `out` says that the reader does not want to see it."""

    number: int
    name: str
    address: str
    out: bool = False
    selected: bool = False

    @property
    def cls(self) -> str:
        return "network" + (" out" if self.out else "") + (" selected" if self.selected else "")


def network_rows(candidates: Iterable[Candidate]) -> list[list[Cell]]:
    """Return all figures of networks, for the data behind a picture."""
    names = (
        "subnet", "precision", "description", "accuracy", "predicted_accuracy", "predicted_ms", "predicted_low_ms",
        "predicted_high_ms", "measured_ms", "macs", "params", "model_bytes", "on_front", "chosen",
    )  # fmt: skip
    return [[*names], *([getattr(each, name) for name in names] for each in candidates)]


def linked(network: Network | None, parts: Iterable[Markup]) -> Markup:
    """Return the parts as a link to the network, or as they are."""
    drawn = Markup("").join(parts)
    if network is None or not drawn:
        return drawn
    return element(
        "a",
        drawn,
        href=network.address,
        cls=network.cls,
        data_network=network.number,
        aria_label=network.name,
        # A table beside the pictures has the same links for the keyboard, once each.
        tabindex=-1,
    )
