"""Files that say what is wanted, sent to the hub: projects, alert rules and alert channels, one or a folder of them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from milonga.client.errors import CallFailed, of_call
from milonga.v1 import alerts_pb2, projects_pb2

from milonga_hub.cli.client import CALL_SECONDS, Client, explain
from milonga_hub.cli.failures import NOT_FOUND, Refused
from milonga_hub.cli.output import clean

if TYPE_CHECKING:
    from milonga_hub.documents import Document

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


@dataclass(frozen=True)
class File:
    """A document to apply, what people call its file, and at which place it stands there."""

    name: str
    part: int
    document: Document

    @property
    def kind(self) -> str:
        return self.document.kind


def files_of(place: Path, root: Path | None = None) -> list[File]:
    """Return what a file holds, or all files of a folder that can be applied, in the order for that; below `root` they are named from there.

    Raises Refused where there is none.
    """
    from milonga_hub.documents import documents_of

    def name(path: Path) -> str:
        return str(path.relative_to(root) if root else path)

    def among(path: Path) -> list[File]:
        return [File(name(path), part, each) for part, each in enumerate(documents_of(path, name(path)))]

    if place.is_file():
        return sorted(among(place), key=_order)
    if not place.is_dir():
        raise Refused(f"there is no file {place}; copy one from fleet_configs/projects", NOT_FOUND)
    written = sorted([*place.rglob("*.yaml"), *place.rglob("*.yml")])
    # A link may lead out of the folder that was named.
    files = [one for path in written if path.is_file() and not path.is_symlink() for one in among(path)]
    found = [file for file in files if file.kind in KINDS]
    if not found:
        raise Refused(f"no file in {name(place)} is of kind {', '.join(KINDS)}", NOT_FOUND)
    return sorted(found, key=_order)


def _order(file: File) -> tuple[int, str, int]:
    return KINDS.index(file.kind) if file.kind in KINDS else len(KINDS), file.name, file.part


def send(files: Iterable[File], *, start_run: bool, dry_run: bool) -> list[Applied]:
    """Apply files one after the other; all are read, and seen by the hub, before the first changes anything."""
    read = [_read(file) for file in files]
    twice = {one.key for one in read if sum(each.key == one.key for each in read) > 1}
    if twice:
        kind, name = min(twice)
        places = ", ".join(one.file.name for one in read if one.key == (kind, name))
        raise Refused(f"the {kind} {name} is there more than once: {places}; keep one")
    with Client() as client:
        planned = [_applied(client, one, start_run=start_run, dry_run=True) for one in read]
        return planned if dry_run else [_applied(client, one, start_run=start_run, dry_run=False) for one in read]


@dataclass(frozen=True)
class _Read:
    file: File
    kind: str
    name: str
    spec: Any

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.name


def _read(file: File) -> _Read:
    """Return what a file says, its spec as a message; what is wrong with it is said with its line."""
    # Imported here, so that all other verbs start fast.
    from milonga_hub.alerts.models import CHANNEL_FILE, RULE_FILE
    from milonga_hub.bridge import to_proto
    from milonga_hub.projects.models import PROJECT_FILE

    if file.kind == RULE:
        name, rule = RULE_FILE.of(file.document)
        return _Read(file, RULE, name, to_proto(rule, alerts_pb2.AlertRuleSpec))
    if file.kind == CHANNEL:
        name, channel = CHANNEL_FILE.of(file.document)
        return _Read(file, CHANNEL, name, to_proto(channel, alerts_pb2.AlertChannelSpec))
    name, project = PROJECT_FILE.of(file.document)
    return _Read(file, PROJECT, name, to_proto(project, projects_pb2.ProjectSpec))


def _applied(client: Client, one: _Read, *, start_run: bool, dry_run: bool) -> Applied:
    """Send one file. What the hub refuses is told with the file and, where the hub names a field, its line."""
    try:
        response = _sent(client, one.kind, one.name, one.spec, start_run=start_run, dry_run=dry_run)
    except grpc.RpcError as error:
        refused = of_call(error, client.address)
        if not isinstance(refused, CallFailed):
            raise
        said, code = explain(refused)
        raise Refused(f"{_where(one.file, refused)}: {said}", code) from error
    return Applied(one.kind, one.name, one.file.name, response)


def _where(file: File, refused: CallFailed) -> str:
    """Return the file, with the line of the field that the hub names, be it that its words begin with it: spec.selector: ..."""
    begins = re.match(r"(spec[\w.\[\]]*)\b", str(refused))
    field = refused.violations[0].field if refused.violations else begins[1] if begins else ""
    return file.document.place_of(field) if field else file.name


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
    lines = [_head(f"{len(changed) or 'no'} change{'s' if len(changed) != 1 else ''}", commit)]
    for one in changed:
        lines += ["", f"**{one.kind} {one.name}** ({one.file})", "", *_fenced(one.changes)]
    return "\n".join(lines)


def markdown_refused(problem: str, commit: str) -> str:
    """Return the comment on a pull request whose files cannot be applied."""
    return "\n".join(
        [_head("these files are refused", commit), "", *_fenced([clean(line) for line in problem.splitlines()])]
    )


def _head(said: str, commit: str) -> str:
    return f"### Milonga: {said} at `{commit[:12]}`" if commit else f"### Milonga: {said}"


def _fenced(lines: list[str]) -> list[str]:
    """Return lines as they are, whatever backticks they have."""
    longest = max((len(run) for run in re.findall("`+", "\n".join(lines))), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *lines, fence]
