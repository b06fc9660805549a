"""What a terminal shows of a rollout: all of it, of many devices those to look at, or what it would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from milonga.v1 import agent_pb2
from milonga.v1 import rollouts_pb2 as pb
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from milonga_hub.cli.output import NONE, cell, clean, word

# A terminal has a few more lines than that.
_MOST_NAMED = 20
# Of many devices, in this order: what went wrong, and what goes on.
_TO_LOOK_AT = (pb.ROLLOUT_DEVICE_STATE_FAILED, pb.ROLLOUT_DEVICE_STATE_TOLD, pb.ROLLOUT_DEVICE_STATE_ASSIGNED)


def render_rollout(rollout: pb.Rollout) -> RenderableType:
    """Return the rollout with all of its devices for rich, to print."""
    return Group(_title(rollout, _state(rollout)), _lines(rollout.devices), *_hints(rollout))


def render_briefly(rollout: pb.Rollout) -> RenderableType:
    """Return the rollout as it stands: of many devices, counts of each wave and those that need a look, or are at work."""
    if len(rollout.devices) <= _MOST_NAMED:
        return render_rollout(rollout)
    to_look_at = sorted((each for each in rollout.devices if each.state in _TO_LOOK_AT), key=_to_look_at)
    some = to_look_at[:_MOST_NAMED]
    others = f"and {len(rollout.devices) - len(some)} others; all of them: milonga rollouts show {rollout.id}"
    waves = [Text(_counted(wave)) for wave in rollout.waves]
    return Group(_title(rollout, _state(rollout)), *waves, _lines(some), Text(others, style="dim"), *_hints(rollout))


def render_rehearsed(rollout: pb.Rollout) -> RenderableType:
    """Return what the rollout would do, with builds: many devices of which the same is true make one line."""
    are_many = len(rollout.devices) > _MOST_NAMED
    alike: dict[tuple[int, str, str], list[str]] = {}
    for device in sorted(rollout.devices, key=_in_order):
        would = ", ".join(filter(None, (device.build.rpartition("/")[2], device.message)))
        alike.setdefault((device.wave, would, "" if are_many else device.device), []).append(device.device)
    grid = _grid(3)
    for (wave, would, _), names in alike.items():
        grid.add_row(_wave(wave), clean(names[0]) if len(names) == 1 else f"{len(names)} devices", clean(would))
    named = [Text("each device by its name: --json", style="dim")] if are_many else []
    return Group(_title(rollout, "not begun"), grid, *named)


def brings(rollout: pb.Rollout) -> str:
    """Return what devices get by it."""
    return rollout.model_version or f"agent {rollout.agent_version}"


def _state(rollout: pb.Rollout) -> str | Text:
    return cell(word(pb.RolloutState, rollout.state))


def _title(rollout: pb.Rollout, state: str | Text) -> Text:
    title = Text.assemble((rollout.id, "bold"), f"  {clean(brings(rollout))}  ", state)
    if rollout.rolls_back:
        title.append(f"  takes back {clean(rollout.rolls_back)}")
    if rollout.reason:
        title.append(f"  {clean(rollout.reason)}", style="dim")
    return title


def _to_look_at(device: pb.RolloutDevice) -> tuple[bool, int, int, str]:
    return device.wave < 0, _TO_LOOK_AT.index(device.state), device.wave, device.device


def _counted(wave: pb.Wave) -> str:
    """Return how far a wave is."""
    failed = f", {wave.failed_count} failed" if wave.failed_count else ""
    begun = "" if wave.HasField("started_at") else ", not begun"
    return f"wave {wave.index + 1}: {wave.succeeded_count} of {wave.device_count} succeeded{failed}{begun}"


def _lines(devices: Sequence[pb.RolloutDevice]) -> Table:
    grid = _grid(4)
    for device in sorted(devices, key=_in_order):
        step = word(agent_pb2.Step, device.step) if device.step else ""
        state = cell(word(pb.RolloutDeviceState, device.state) if device.wave >= 0 else NONE)
        late = ("late:" if device.message else "late") if device.late else ""
        shadow = f"as a shadow: {device.shadow}" if device.shadow else ""
        said = " ".join(filter(None, (step, late, device.message, shadow)))
        grid.add_row(_wave(device.wave), clean(device.device), state, clean(said))
    return grid


def _grid(columns: int) -> Table:
    grid = Table.grid(padding=(0, 2))
    for _ in range(columns):
        grid.add_column(overflow="fold")
    return grid


def _in_order(device: pb.RolloutDevice) -> tuple[bool, int, str]:
    return device.wave < 0, device.wave, device.device


def _wave(index: int) -> str:
    return f"wave {index + 1}" if index >= 0 else "left out"


def _hints(rollout: pb.Rollout) -> Iterator[Text]:
    """Yield what a person may do now."""
    end = f"or end it: milonga rollouts abort {rollout.id}"
    if rollout.state == pb.ROLLOUT_STATE_PAUSED:
        yield Text(f"go on: milonga rollouts resume {rollout.id}, {end}")
        if not rollout.agent_version:
            yield Text(f"or let devices go back to the version before: milonga rollouts roll-back {rollout.id}")
    if rollout.state == pb.ROLLOUT_STATE_AWAITING_APPROVAL:
        yield Text(f"let it begin: milonga rollouts approve {rollout.id}, {end}")
