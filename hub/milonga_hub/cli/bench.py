"""milonga bench: how well the hub's models do on your own tables. Needs no hub."""

from __future__ import annotations

import json as json_text
import statistics
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from milonga_hub.cli.client import Json
from milonga_hub.cli.failures import NOT_FOUND, Refused
from milonga_hub.cli.output import number, percent, say, table

if TYPE_CHECKING:
    from milonga_hub.learning.latency.evaluate import Networks

group = typer.Typer()

_FEWEST_NETWORKS = 20


@group.command("latency")
def latency(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="An .npz with features or archs (networks x columns), devices, latency_ms (devices x networks; NaN:"
            " not measured) and perhaps macs_m.",
        ),
    ],
    families: Annotated[
        Path | None,
        typer.Option(
            "--families", help='JSON: {"device": "family"}. A device is predicted from those of other families only.'
        ),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Device to predict; may be repeated. Otherwise each in turn.")
    ] = None,
    measured: Annotated[int, typer.Option("--measured", "-k", min=3, help="Networks to measure on it.")] = 10,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How often, with other networks known.")] = 3,
    json: Json = False,
) -> None:
    """Predict each device's latencies from few measurements of it and all others; say how well.

    Half of the networks are known to all devices, and some of them are measured on the one that is predicted. The other
    half, new to all, is what counts.
    """
    networks = _networks(data, families)
    wanted = _wanted(networks, target or [], measured)
    shown = track(wanted, "devices", console=Console(stderr=True), transient=True, disable=json or not _watched())
    rows = [_row(networks, one, measured, seeds) for one in shown]
    if json:
        sys.stdout.write(json_text.dumps({"measured": measured, "seeds": seeds, "devices": rows}, indent=2) + "\n")
        return
    columns = ("device", "rank correlation", "within 10 %", "in 80 % interval", "seconds")
    cells = [
        (
            row["device"],
            number(row["spearman"]),
            percent(row["within"]),
            percent(row["coverage"]),
            number(row["seconds"]),
        )
        for row in rows
    ]
    table(columns, cells, right=columns[1:])
    middle = statistics.mean(row["spearman"] for row in rows)
    say(f"mean rank correlation {number(middle)} over {len(rows)} device(s), {measured} networks measured on each")


def _watched() -> bool:
    return sys.stderr.isatty()


def _row(networks: Networks, target: str, measured: int, seeds: int) -> dict[str, Any]:
    # Only this verb needs scipy's and the model's seconds to import; it runs in the user's process, not the hub's.
    from milonga_hub.learning.latency.evaluate import left_out, trials

    scores = [
        asdict(score)
        for seed in range(seeds)
        for _, score in trials(networks, left_out(networks, target, seed), [measured], [seed])
    ]
    return {"device": target, **{name: statistics.mean(score[name] for score in scores) for name in scores[0]}}


def _wanted(networks: Networks, targets: Sequence[str], measured: int) -> list[str]:
    if unknown := [one for one in targets if one not in networks.latency_ms]:
        raise Refused(f"no device {unknown[0]} in the table; it has: {', '.join(networks.latency_ms)}", NOT_FOUND)
    counts = {name: int((ms == ms).sum()) for name, ms in networks.latency_ms.items()}
    needed = max(_FEWEST_NETWORKS, 2 * measured)
    enough = [name for name in targets or counts if counts[name] >= needed]
    if left := [one for one in targets if one not in enough]:
        raise Refused(
            f"{left[0]} measured {counts[left[0]]} networks; {needed} are needed to measure {measured} and predict others"
        )
    if not enough:
        raise Refused(f"no device measured {needed} networks, which {measured} to measure and others to predict need")
    return enough


def _networks(data: Path, families: Path | None) -> Networks:
    """Read and check the table. Raises Refused with what is wrong with it."""
    from milonga_hub.learning.latency.evaluate import Networks

    arrays = _arrays(data)
    features = arrays.get("features", arrays.get("archs"))
    if features is None or "devices" not in arrays or "latency_ms" not in arrays:
        raise Refused(f"{data} has the arrays {', '.join(arrays) or '(none)'}; features (or archs), devices and latency_ms"
                      " are needed")  # fmt: skip
    names = [str(name) for name in arrays["devices"].ravel()]
    shape = (len(names), len(features)) if features.ndim == 2 else None
    if arrays["latency_ms"].shape != shape or len(set(names)) < len(names):
        raise Refused(
            f"{data}: features {features.shape}, devices ({len(names)},), latency_ms {arrays['latency_ms'].shape}; they"
            " must be (networks, columns), (devices,) of different names, and (devices, networks)"
        )
    try:
        numbers: dict[str, Any] = {key: arrays[key].astype(float) for key in ("latency_ms", "macs_m") if key in arrays}
        rows = features.astype(float)
    except ValueError as error:
        raise Refused(f"{data}: {error}; all but devices must be numbers") from error
    _check(data, numbers, rows)
    latency_ms = dict(zip(names, numbers["latency_ms"], strict=True))
    return Networks(rows, latency_ms, numbers.get("macs_m"), _families(families, names))


def _check(data: Path, numbers: Mapping[str, Any], rows: Any) -> None:
    ms = numbers["latency_ms"]
    if not ((ms > 0) & (ms < float("inf")) | (ms != ms)).all():
        raise Refused(f"{data}: latency_ms must be finite and above 0, or NaN where not measured")
    if not (abs(rows) < float("inf")).all():
        raise Refused(f"{data}: features must be finite")
    macs = numbers.get("macs_m")
    if macs is not None and (macs.shape != (len(rows),) or not ((macs > 0) & (macs < float("inf"))).all()):
        raise Refused(f"{data}: macs_m must be one finite number above 0 for each network")


def _arrays(data: Path) -> dict[str, Any]:
    import numpy as np

    if not data.is_file():
        raise Refused(f"there is no file {data}; give an .npz with features, devices and latency_ms", NOT_FOUND)
    try:
        # Never unpickle: a table from elsewhere must not run code.
        with data.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Refused(f"{data} is no .npz of plain numbers and texts: {error}") from error


def _families(path: Path | None, names: Sequence[str]) -> dict[str, str]:
    if path is None:
        return {}
    if not path.is_file():
        raise Refused(f'there is no file {path}; write JSON to it: {{"device": "family"}}', NOT_FOUND)
    try:
        found = json_text.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise Refused(f'{path} must hold {{"device": "family"}}')
    if unknown := sorted(set(found) - set(names)):
        raise Refused(f"{path} names {unknown[0]}, which is not in the table; it has: {', '.join(names)}")
    return found
