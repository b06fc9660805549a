"""milonga simulate: a fleet that is not there, for planning and trying out."""

from __future__ import annotations

import json as json_text
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from milonga.v1 import devices_pb2
from rich.console import Console
from rich.live import Live
from rich.text import Text

from milonga_hub.cli.client import Client, Hub, Json, remember_hub
from milonga_hub.cli.failures import FAILED, USAGE, Refused
from milonga_hub.cli.output import facts, size

_STEADY_SECONDS = 10.0
_HUB_SECONDS = 120.0
_STOP_SECONDS = 30.0


def simulate(
    devices: Annotated[int, typer.Option(min=1, help="How many devices.")] = 100,
    profile: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A profile that comes with the hub, or a file like it.")
    ] = "mixed",
    join_token: Annotated[
        str, typer.Option(help="A token with as many uses; without it, one is made on the hub.")
    ] = "",
    own_hub: Annotated[bool, typer.Option("--own-hub", help="Start a hub for it, on free ports.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the hub of --own-hub keeps its data; without it, they are not kept.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.1, metavar="SECONDS", help="End after so long; without it, by Ctrl-C.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds make equal fleets.")] = 0,
    prefix: Annotated[
        str, typer.Option(help="What the devices' names begin with; without it, a new one for each simulation.")
    ] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Let devices that are not there join a hub, speak the whole protocol with it, and suffer what a script says.

    They enrol, keep a stream and a connection for telemetry open, fetch and verify what they are assigned, measure and
    report; only their inference is made up. Ctrl-C ends it in order. See docs/simulation.md.
    """
    if find_spec("milonga_agent") is None:
        raise Refused("simulated devices are made of the agent's own code; install it here: pip install milonga-agent")
    if data_dir is not None and not own_hub:
        raise Refused("--data-dir is for the hub of --own-hub", USAGE)
    # Imported here, so that all other verbs start fast.
    from milonga_hub.devices.known import shipped
    from milonga_hub.simulation.machines import machines
    from milonga_hub.simulation.spec import load

    _, spec = load(profile)
    said = {**spec.message(), "machines": machines(spec.machines, shipped())}
    shown = Console(stderr=True, markup=False, highlight=False, emoji=False)
    with ExitStack() as stack:
        if own_hub:
            stack.enter_context(_own_hub(data_dir, shown))
        address, token = _admission(devices, join_token)
        said |= {
            "hub": address,
            "join_token": token,
            "devices": devices,
            "duration_seconds": duration,
            "seed": seed,
            "prefix": prefix or f"sim-{os.urandom(3).hex()}",
        }
        summary = _simulate(said, shown)
    if json:
        typer.echo(json_text.dumps(summary, indent=2))
    else:
        _tell(summary)


def _admission(devices: int, join_token: str) -> tuple[str, str]:
    """Return the hub's address and a token for so many devices."""
    with Client() as client:
        if join_token:
            return client.address, join_token
        request = devices_pb2.CreateJoinTokenRequest(uses=devices, labels={})
        return client.address, client.devices.CreateJoinToken(request, timeout=30).secret


@contextmanager
def _own_hub(data_dir: Path | None, shown: Console) -> Iterator[None]:
    """Run a hub on free ports and talk to it."""
    with ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milonga-simulation-")))
        folder.mkdir(parents=True, exist_ok=True)
        about = folder / "hub.json"
        about.unlink(missing_ok=True)
        ports = [part for name in ("http", "grpc", "device", "mqtt") for part in (f"--{name}-port", "0")]
        log = stack.enter_context((folder / "hub.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "milonga_hub.cli", "up", "--data-dir", str(folder), *ports],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the devices first.
            start_new_session=True,
        )
        stack.callback(_stop, process)
        known = _started(process, about, folder / "hub.log")
        remember_hub(known["grpc"])
        shown.print(f"A hub of its own is up. Dashboard: http://{known['http']}; its log is {folder / 'hub.log'}")
        yield


def _started(process: subprocess.Popen[bytes], about: Path, log: Path) -> dict[str, str]:
    """Wait for the hub and return its addresses."""
    until = time.monotonic() + _HUB_SECONDS
    while not about.exists():
        if process.poll() is not None or time.monotonic() > until:
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise Refused(f"the hub did not start: {' '.join(tail)}", FAILED)
        time.sleep(0.1)
    known: dict[str, str] = json_text.loads(about.read_text(encoding="utf-8"))
    return known


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _simulate(said: dict[str, Any], shown: Console) -> dict[str, Any]:
    """Run the simulating process to its end and return its summary."""
    process = subprocess.Popen(
        [sys.executable, "-m", "milonga_agent.simulation"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # It ends when its stdin does, in order; also where this process is killed.
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    summary: dict[str, Any] = {}
    try:
        process.stdin.write(json_text.dumps(said).encode() + b"\n")
        process.stdin.flush()
        with _Progress(shown) as progress, _ending_by_ctrl_c(process.stdin.close) as ending:
            while line := process.stdout.readline():
                if ending.is_set():
                    ending.clear()
                    progress.say("Ending: the devices say goodbye. Ctrl-C again ends at once.")
                summary = _heard(json_text.loads(line), progress) or summary
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if not summary:
        raise Refused(f"the simulating process ended with exit code {code}; its last lines are above", FAILED)
    return summary


@contextmanager
def _ending_by_ctrl_c(end: Callable[[], object]) -> Iterator[threading.Event]:
    """Call `end` at the first Ctrl-C, and set the event; raise KeyboardInterrupt at the second.

    A KeyboardInterrupt at the first could come up anywhere, also where Python drops it: in the clean-up of some object.
    """
    asked, ended = threading.Event(), threading.Event()

    def interrupt(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        ended.set()
        end()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield ended
    finally:
        signal.signal(signal.SIGINT, before)


def _heard(message: dict[str, Any], progress: _Progress) -> dict[str, Any]:
    kind = message.pop("is")
    if kind == "error":
        raise Refused(message["message"])
    if kind == "progress":
        progress.show(message)
        return {}
    return message


class _Progress:
    """One line that changes, on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, shown: Console) -> None:
        self._shown = shown
        self._live = Live(console=shown, transient=True, auto_refresh=False) if shown.is_terminal else None
        self._last = 0.0

    def __enter__(self) -> _Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, counts: dict[str, Any]) -> None:
        line = (
            f"{counts['seconds']:.0f} s: {counts['online']:,} of {counts['devices']:,} online,"
            f" {counts['assigned']:,} assigned, {counts['succeeded']:,} succeeded, {counts['failed']:,} failed,"
            f"{self._upgrades(counts)}"
            f" {counts['messages_per_second']:,.0f} messages/s, {counts['errors']:,} errors"
        )
        if self._live:
            self._live.update(Text(line), refresh=True)
        elif counts["seconds"] - self._last >= _STEADY_SECONDS:
            self._last = counts["seconds"]
            self.say(line)

    def _upgrades(self, counts: dict[str, Any]) -> str:
        if not counts["upgraded"] and not counts["not_upgraded"]:
            return ""
        return f" {counts['upgraded']:,} agents upgraded, {counts['not_upgraded']:,} not,"

    def say(self, line: str) -> None:
        self._shown.print(line, soft_wrap=True)


def _tell(summary: dict[str, Any]) -> None:
    facts(
        (
            (
                "devices",
                f"{summary['enrolled']:,} of {summary['devices']:,} joined, {summary['most_online']:,} online at a time,"
                f" {summary['reconnects']:,} reconnects",
            ),
            ("assignments", f"{summary['succeeded']:,} succeeded, {summary['failed']:,} failed"),
            ("upgrades of agents", f"{summary['upgraded']:,} succeeded, {summary['not_upgraded']:,} failed"),
            ("measurements", f"{summary['measured']:,}"),
            ("messages", f"{summary['sent']:,} sent, {summary['received']:,} received"),
            (
                "telemetry",
                f"{summary['windows_sent']:,} windows sent, {summary['windows_acknowledged']:,} acknowledged",
            ),
            ("downloads", size(summary["downloaded_bytes"])),
            ("rate", f"{summary['messages_per_second']:,.0f} messages/s over {summary['seconds']:,.0f} s"),
            *((f"{count:,} ×", error) for error, count in summary["errors"].items()),
        )
    )
