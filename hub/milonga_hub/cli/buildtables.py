"""Builds as people see them in a terminal: one with its gates, several side by side, and one in the making."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from milonga.v1 import models_pb2 as pb
from milonga.v1.projects_pb2 import STAGE_STATE_RUNNING
from rich.console import Group, RenderableType
from rich.text import Text

from milonga_hub.cli.output import (
    NONE,
    ago,
    cell,
    clean,
    duration,
    facts,
    measure,
    number,
    percent,
    say,
    short,
    size,
    table,
    word,
)
from milonga_hub.cli.timeline import stage_table


def latency(build: pb.Build) -> str:
    """Return the median with its 95 % interval."""
    median = number(build.measured_ms, "ms")
    if math.isnan(build.measured_half_width_ms) or not build.measured_half_width_ms:
        return median
    return f"{number(build.measured_ms)} ± {number(build.measured_half_width_ms, 'ms', 2)}"


def state_of(build: pb.Build) -> str:
    """Return the state in words, with what else decides on its use."""
    marks = [word(pb.BuildState, build.state)]
    marks += ["overridden"] if build.HasField("override") else []
    marks += ["chosen"] if build.chosen else []
    marks += ["in progress"] if build.in_progress and build.state != pb.BUILD_STATE_BUILDING else []
    return ", ".join(marks)


def lost(build: pb.Build) -> str:
    points = (build.subnet_accuracy - build.accuracy) * 100
    return NONE if math.isnan(points) else f"{points:.2f} pt"


def differing(build: pb.Build) -> str:
    """Return how many in a hundred of its answers are not those of its network."""
    gate = next((one for one in build.gates if one.name == "disagreement" and one.HasField("found")), None)
    return NONE if gate is None else f"{gate.found:.1f} %"


def print_build(build: pb.Build) -> None:
    facts(
        (
            ("build", build.name),
            ("state", state_of(build)),
            ("reason", build.reason),
            *_under_way(build),
            *_override(build),
            ("chosen", "yes" if build.chosen else "no"),
            ("because", build.decision),
            ("subnet", short(build.subnet)),
            ("bundle", build.bundle),
            *((("size", size(build.size_bytes)),) if build.bundle else ()),
            *_accuracy(build),
            ("largest error", number(build.max_abs_error)),
            ("predicted", number(build.predicted_ms, "ms")),
            ("measured", f"{latency(build)}{f' on {build.measured_on}' if build.measured_on else ''}"),
            ("not measured" if math.isnan(build.measured_ms) else "not measured anew", build.measuring_error),
            *_tuning(build),
            ("made", ago(build, "created_at")),
            *(("gate", words) for words in _gates(build)),
            *(("file", f"{file.path}  {size(file.size_bytes)}  {short(file.digest)}") for file in build.files),
        )
    )
    say(f"its log: milonga build show {build.name} --log")


def _under_way(build: pb.Build) -> Iterator[tuple[str, str]]:
    running = next((stage for stage in build.stages if stage.state == STAGE_STATE_RUNNING), None)
    if running is not None:
        yield running.name, f"{running.progress:.0%}  {running.message}"
    elif build.in_progress:
        yield "build", "waits for its turn"


def _accuracy(build: pb.Build) -> Iterator[tuple[str, str]]:
    if not (math.isnan(build.accuracy) and math.isnan(build.subnet_accuracy)):
        yield measure(build.task), f"{percent(build.accuracy)} (subnet {percent(build.subnet_accuracy)})"


def _override(build: pb.Build) -> Iterator[tuple[str, str]]:
    if build.HasField("override"):
        given = build.override
        yield "allowed", f"by {given.by}, {ago(given, 'at')}: {given.reason}"


def _tuning(build: pb.Build) -> Iterator[tuple[str, str]]:
    if not build.HasField("tuning"):
        return
    told = build.tuning
    wanted = told.wanted_device or f"a device of type {build.device_type}"
    where = "the hub" if told.site == pb.TUNING_SITE_HUB else told.device or wanted
    failed = f", {told.failed} of them failed" if told.failed else ""
    yield (
        "tuned",
        f"on {where}: {duration(told.seconds)} of {duration(60 * told.minutes)}, {told.trials} schedules{failed}",
    )
    if told.kernels:
        figures = f"{number(told.begun_ms, 'ms')} to {number(told.ms, 'ms')}, untuned {number(told.untuned_ms, 'ms')}"
        found = f", {told.found} of them before" if told.found else ""
        yield "kernels", f"{told.tuned} of {told.kernels} tuned{found}; all together {figures}"
    if told.ended:
        yield "ended", told.ended


def _gates(build: pb.Build) -> Iterator[str]:
    for gate in build.gates:
        found = _figure(gate, gate.found) if gate.HasField("found") else "not known"
        allowed = f"{_figure(gate, gate.allowed)} allowed" if gate.HasField("allowed") else "no limit"
        # What is not known yet neither passed nor failed.
        verdict = (": passed" if gate.passed else ": not passed") if gate.HasField("found") else ""
        yield f"{gate.name}: {found}, {allowed}{verdict}"


def _figure(gate: pb.Gate, value: float) -> str:
    return size(value) if gate.unit == "bytes" else number(value, gate.unit)


def candidate_table(device_type: str, builds: Sequence[pb.Build]) -> None:
    """Print the builds of one device type side by side, the chosen one and then the fastest first."""

    def order(build: pb.Build) -> tuple[bool, float, str]:
        return not build.chosen, math.inf if math.isnan(build.measured_ms) else build.measured_ms, build.name

    say(device_type)
    rows = (
        (
            f"{build.engine}/{build.precision}",
            word(pb.BuildState, build.state),
            latency(build),
            size(build.size_bytes) if build.bundle else NONE,
            lost(build),
            differing(build),
            number(build.max_abs_error),
            _why(build),
        )
        for build in sorted(builds, key=order)
    )
    columns = ("target", "state", "measured", "size", "lost", "differ", "error", "why")
    table(columns, rows, right=columns[2:7])


def _why(build: pb.Build) -> str:
    words = build.decision or build.reason or NONE
    return f"chosen: {words}" if build.chosen and not words.startswith("chosen ") else words


def render_build(build: pb.Build) -> RenderableType:
    """Return a build that is made outside a run, for rich, to print or to show live."""
    title = Text.assemble((clean(build.name), "bold"), "  ")
    title.append(cell(word(pb.BuildState, build.state)))
    lines: list[RenderableType] = [title]
    if build.stages:
        lines.append(stage_table(build.stages))
    if not build.in_progress and build.decision:
        lines.append(Text(clean(build.decision)))
    if not build.in_progress:
        lines.append(Text(f"its log: milonga build show {build.name} --log", style="dim"))
    return Group(*lines)
