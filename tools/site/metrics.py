"""What /metrics tells, as the code that collects it names it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_CODE = Path(__file__).parent.parent.parent / "hub" / "milonga_hub" / "web" / "metrics.py"
# What makes a metric, and the kind that it makes.
_MAKERS = {"_counter": "counter", "_gauge": "gauge", "HistogramMetricFamily": "histogram"}


class Metric(NamedTuple):
    """One metric by the name that Prometheus knows it by."""

    name: str
    kind: str
    labels: tuple[str, ...]
    words: str


def metrics() -> str:
    """Return the page of all metrics."""
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.words} |"
        for one in known()
    ]
    told = (
        "What `http://HUB:8080/metrics` tells. How to scrape it, and what labels mean, is in [metrics](../metrics.md)."
    )
    return "\n".join(["# Metrics", "", told, "", "| metric | kind | labels | what |", "|---|---|---|---|", *rows, ""])


def known() -> list[Metric]:
    """Return the metrics by name; they are read from the code, since a hub would have to run to tell them."""
    tree = ast.parse(_CODE.read_text(encoding="utf-8"))
    # Labels that several share have a name of their own.
    values = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return sorted(_found(tree, values))


def _found(tree: ast.AST, values: dict[str, ast.expr]) -> Iterator[Metric]:
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        kind = _MAKERS.get(call.func.id) if isinstance(call.func, ast.Name) else None
        texts = [each.value for each in call.args[:2] if isinstance(each, ast.Constant)]
        if kind is None or len(texts) != 2:
            continue
        named = next((each.value for each in call.keywords if each.arg == "labels"), None)
        given = named if named is not None else call.args[2]
        labels = ast.literal_eval(values[given.id] if isinstance(given, ast.Name) else given)
        name, words = map(str, texts)
        yield Metric(f"{name}_total" if kind == "counter" else name, kind, tuple(labels), words)
