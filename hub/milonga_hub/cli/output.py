"""What the command line prints: tables and sentences for people on stdout, JSON for programs, never both."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from milonga.v1 import projects_pb2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from milonga_hub.tasks import Task

# Wider lines wrap badly in terminals beside an editor.
WIDTH = 100
NONE = "–"
_STYLES = {
    "online": "green",
    "succeeded": "green",
    "verified": "green",
    "running": "cyan",
    "assigned": "cyan",
    "told": "yellow",
    "paused": "yellow",
    "offline": "yellow",
    "failed": "red",
    "critical": "red",
    "warning": "yellow",
    "given up": "red",
    "delivered": "green",
    "rejected": "red",
    "aborted": "red",
    "cancelled": "yellow",
}


def console() -> Console:
    """Return a console on the stdout of now, at most WIDTH wide; names from outside are never taken for markup."""
    made = Console(markup=False, highlight=False, emoji=False)
    made.width = min(made.width, WIDTH) if made.is_terminal else WIDTH
    return made


def clean(value: object) -> str:
    """Return the text without control characters, which could move the cursor or forge output."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))


def say(*lines: str) -> None:
    """Print sentences for people; long ones wrap between words."""
    for line in lines:
        console().print(Text(line))


def print_json(*messages: Message, lines: bool = False) -> None:
    """Print the fields of protobuf messages as one object of JSON; with `lines` on one line, for streams."""
    found: dict[str, Any] = {}
    for message in messages:
        found |= MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    text = json.dumps(found, indent=None if lines else 2, ensure_ascii=False)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Print a table; cells that are states are coloured, columns named in `right` are aligned so."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    console().print(made)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print what is known of one thing, a line each; what is empty is left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value not in ("", None, NONE):
            made.add_row(name, cell(value))
    console().print(made)


def cell(value: object) -> Text:
    text = clean(value)
    return Text(text, style=_STYLES.get(text, ""))


def word(enum: Any, number: int) -> str:
    """Return an enum value for people: DEVICE_STATE_ONLINE is "online"."""
    name = str(enum.Name(number))
    prefix = str(enum.Name(0)).removesuffix("UNSPECIFIED")
    return name.removeprefix(prefix).lower().replace("_", " ")


def measure(task: int) -> str:
    """Return what the accuracy of networks for this task is called."""
    return (Task.DETECTION if task == projects_pb2.TASK_DETECTION else Task.CLASSIFICATION).measure


def labels(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(values.items())) or NONE


def short(digest: str) -> str:
    """Return enough of a digest to tell things apart."""
    return digest.removeprefix("sha256:")[:12] or NONE


def number(value: float, unit: str = "", digits: int = 3) -> str:
    """Return the value with its unit, or a dash for no figure."""
    if math.isnan(value):
        return NONE
    text = f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{text} {unit}".strip()


def percent(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.1%}"


class Transfers(Protocol):
    """What devices moved of builds, in whatever message."""

    whole_bytes: int
    moved_bytes: int
    neighbour_bytes: int


def transferred(came: Transfers) -> str:
    """Return "20 MB from the hub and 150 MB from neighbours for 200 MB", "" before the first download."""
    if not came.whole_bytes:
        return ""
    nearby = f" and {size(came.neighbour_bytes)} from neighbours" if came.neighbour_bytes else ""
    return f"{size(came.moved_bytes - came.neighbour_bytes)} from the hub{nearby} for {size(came.whole_bytes)}"


def size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000 or unit == "GB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError


def moment(message: Any, field: str) -> datetime | None:
    """Return the time in the field, None where it is not set."""
    if not message.HasField(field):
        return None
    stamp = getattr(message, field)
    assert isinstance(stamp, Timestamp)
    return stamp.ToDatetime(tzinfo=UTC)


def ago(message: Any, field: str) -> str:
    """Return how long ago the time in the field was."""
    when = moment(message, field)
    if when is None:
        return NONE
    seconds = (datetime.now(UTC) - when).total_seconds()
    return f"in {duration(-seconds)}" if seconds < -1 else f"{duration(max(0.0, seconds))} ago"


def duration(seconds: float) -> str:
    for size_seconds, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size_seconds:
            return f"{seconds / size_seconds:.0f} {unit}"
    return f"{seconds:.0f} s"
