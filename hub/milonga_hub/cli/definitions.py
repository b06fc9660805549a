"""Files that say what is wanted, sent to the hub: projects, alert rules and alert channels, one or a folder of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milonga.v1 import alerts_pb2, projects_pb2

from milonga_hub.cli.client import CALL_SECONDS, Client
from milonga_hub.cli.failures import NOT_FOUND, Refused
from milonga_hub.cli.output import clean

PROJECT, RULE, CHANNEL = "Project", "AlertRule", "AlertChannel"
# In the order in which they are applied: rules name channels and projects.
KINDS = (CHANNEL, PROJECT, RULE)


@dataclass(frozen=True)
class Applied:
    """What applying one file changed, or would."""

    kind: str
    name: str
    file: str
    response: Any

    @property
    def changes(self) -> list[str]:
        return [clean(change) for change in self.response.changes]

    @property
    def run(self) -> str:
        """Return the run that was started, "" for none."""
        started = self.kind == PROJECT and self.response.HasField("run")
        return str(self.response.run.name) if started else ""


def files_of(place: Path) -> list[Path]:
    """Return the file, or all files of a folder that can be applied, in the order for that. Raises Refused where there is none."""
    from milonga_hub.documents import kind_of

    if place.is_file():
        return [place]
    if not place.is_dir():
        raise Refused(f"there is no file {place}; copy one from fleet_configs/projects", NOT_FOUND)
    written = sorted([*place.rglob("*.yaml"), *place.rglob("*.yml")])
    # A link may lead out of the folder that was named.
    kinds = {path: kind_of(path) for path in written if path.is_file() and not path.is_symlink()}
    found = [path for path, kind in kinds.items() if kind in KINDS]
    if not found:
        raise Refused(f"no file in {place} is of kind {', '.join(KINDS)}", NOT_FOUND)
    return sorted(found, key=lambda path: (KINDS.index(kinds[path]), path))


def send(files: Iterable[Path], *, start_run: bool, dry_run: bool, above: Path | None = None) -> list[Applied]:
    """Apply files one after the other; all are read before the first is sent. `above` shortens their names."""
    read = [(path, _read(path)) for path in files]
    twice = {(kind, name) for _, (kind, name, _) in read if sum(each[1][:2] == (kind, name) for each in read) > 1}
    if twice:
        kind, name = min(twice)
        places = ", ".join(str(path) for path, (other, named, _) in read if (other, named) == (kind, name))
        raise Refused(f"the {kind} {name} is in more than one file: {places}; keep one")
    with Client() as client:
        return [
            Applied(
                kind,
                name,
                str(path.relative_to(above) if above else path),
                _sent(client, kind, name, spec, start_run=start_run, dry_run=dry_run),
            )
            for path, (kind, name, spec) in read
        ]


def _read(path: Path) -> tuple[str, str, Any]:
    """Return kind, name and spec, as a message; what is wrong with the file is said with its line."""
    # Imported here, so that all other verbs start fast.
    from milonga_hub.alerts.models import CHANNEL_FILE, RULE_FILE
    from milonga_hub.bridge import to_proto
    from milonga_hub.documents import kind_of
    from milonga_hub.projects.models import PROJECT_FILE

    kind = kind_of(path)
    if kind == RULE:
        name, rule = RULE_FILE.load(path)
        return kind, name, to_proto(rule, alerts_pb2.AlertRuleSpec)
    if kind == CHANNEL:
        name, channel = CHANNEL_FILE.load(path)
        return kind, name, to_proto(channel, alerts_pb2.AlertChannelSpec)
    name, project = PROJECT_FILE.load(path)
    return PROJECT, name, to_proto(project, projects_pb2.ProjectSpec)


def _sent(client: Client, kind: str, name: str, spec: Any, *, start_run: bool, dry_run: bool) -> Any:
    if kind == RULE:
        rule = alerts_pb2.ApplyAlertRuleRequest(name=name, spec=spec, dry_run=dry_run)
        return client.alerts.ApplyAlertRule(rule, timeout=CALL_SECONDS)
    if kind == CHANNEL:
        channel = alerts_pb2.ApplyAlertChannelRequest(name=name, spec=spec, dry_run=dry_run)
        return client.alerts.ApplyAlertChannel(channel, timeout=CALL_SECONDS)
    project = projects_pb2.ApplyProjectRequest(
        name=name, spec=spec, start_run=start_run, dry_run=dry_run, request_id=uuid.uuid4().hex
    )
    return client.projects.ApplyProject(project, timeout=CALL_SECONDS)


def markdown(applied: Iterable[Applied], commit: str) -> str:
    """Return the plan as a comment on a pull request."""
    changed = [one for one in applied if one.changes]
    head = f"### Milonga: {len(changed) or 'no'} change{'s' if len(changed) != 1 else ''}"
    lines = [f"{head} at `{commit[:12]}`" if commit else head]
    for one in changed:
        lines += ["", f"**{one.kind} {one.name}** ({one.file})", "", "```", *one.changes, "```"]
    return "\n".join(lines)
