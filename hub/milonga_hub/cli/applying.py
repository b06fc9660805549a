"""milonga apply, diff and schema: what is wanted, from a file, a folder, or a git repository."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from milonga_hub.cli.client import Hub, Json
from milonga_hub.cli.definitions import CHANNEL, PROJECT, Applied, files_of, markdown, markdown_refused, send
from milonga_hub.cli.failures import CHANGES, USAGE, Refused
from milonga_hub.cli.git import checkout
from milonga_hub.cli.output import print_json, say
from milonga_hub.errors import MilongaError

_File = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="A project, alert rule or alert channel, YAML; or a folder with several."),
]
_Git = Annotated[str, typer.Option("--git", metavar="URL", help="Take the files from a git repository.")]
_Ref = Annotated[str, typer.Option("--ref", help="Branch, tag or commit there; empty: its usual branch.")]
_Path = Annotated[str, typer.Option("--path", help="Folder there.")]
_Signed = Annotated[
    bool, typer.Option("--signed", help="Take only a commit whose signature this machine's git trusts.")
]
_Signers = Annotated[
    Path | None,
    typer.Option(
        "--signers", metavar="FILE", help="Take only a commit signed by an SSH key of this file (ALLOWED SIGNERS)."
    ),
]
_Markdown = Annotated[bool, typer.Option("--markdown", help="Print the changes as a comment on a pull request.")]
_ExitCode = Annotated[bool, typer.Option("--exit-code", help=f"Exit with {CHANGES} where there are changes, for CI.")]


def apply(
    file: _File = None,
    git: _Git = "",
    ref: _Ref = "",
    path: _Path = "fleet_configs",
    signed: _Signed = False,
    signers: _Signers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    no_run: Annotated[bool, typer.Option("--no-run", help="Change the project but start no run.")] = False,
    as_markdown: _Markdown = False,
    exit_code: _ExitCode = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Create projects, alert rules and channels, or change them as their files say; a run starts if a project changed."""
    with _place(file, git, ref, path, signed, signers) as (place, root, commit):
        try:
            applied = send(files_of(place, root), start_run=not no_run, dry_run=dry_run)
        except (Refused, MilongaError) as problem:
            # A pull request whose files are wrong gets a comment, too.
            if as_markdown:
                typer.echo(markdown_refused(str(problem), commit))
            raise
    _tell(applied, commit, git, dry_run=dry_run, as_markdown=as_markdown, json=json)
    raise typer.Exit(CHANGES if exit_code and any(one.changes for one in applied) else 0)


def diff(
    file: _File = None,
    git: _Git = "",
    ref: _Ref = "",
    path: _Path = "fleet_configs",
    signed: _Signed = False,
    signers: _Signers = None,
    as_markdown: _Markdown = False,
    exit_code: _ExitCode = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Say what applying the files would change."""
    apply(
        file,
        git,
        ref,
        path,
        signed,
        signers,
        dry_run=True,
        no_run=True,
        as_markdown=as_markdown,
        exit_code=exit_code,
        json=json,
    )


def schema(
    kind: Annotated[
        str, typer.Argument(help="Project, AlertRule, AlertChannel, DeviceType, Simulation or Quotas.")
    ] = PROJECT,
) -> None:
    """Print the JSON Schema of a kind of file, for editors: # yaml-language-server: $schema=project.schema.json"""
    # Imported here, so that all other verbs start fast.
    from milonga_hub.alerts.models import CHANNEL_FILE, RULE_FILE
    from milonga_hub.devices.known import FILE as DEVICE_TYPE_FILE
    from milonga_hub.projects.models import PROJECT_FILE
    from milonga_hub.quotas.models import QUOTAS_FILE
    from milonga_hub.simulation.spec import FILE as SIMULATION_FILE

    known = {
        each.name: each
        for each in (PROJECT_FILE, RULE_FILE, CHANNEL_FILE, DEVICE_TYPE_FILE, SIMULATION_FILE, QUOTAS_FILE)
    }
    found = next((each for name, each in known.items() if name.lower() == kind.lower()), None)
    if found is None:
        raise Refused(f"there is no kind {kind!r}; there are: {', '.join(known)}", USAGE)
    typer.echo(json_text.dumps(found.schema(), indent=2))


@contextmanager
def _place(
    file: Path | None, git: str, ref: str, path: str, signed: bool, signers: Path | None
) -> Iterator[tuple[Path, Path | None, str]]:
    """Yield where the files are, and the folder of the repository and the commit that they are of."""
    if (file is None) == (not git):
        raise Refused("name files with -f, or a repository with --git, and not both", USAGE)
    if file is not None and (signed or signers is not None):
        raise Refused("files have no signature; name a repository with --git", USAGE)
    if file is not None:
        yield file, None, ""
        return
    with checkout(git, ref, path, signed, signers) as found:
        yield found.folder, found.root, found.commit


def _tell(applied: list[Applied], commit: str, git: str, *, dry_run: bool, as_markdown: bool, json: bool) -> None:
    if json:
        _print(applied, commit)
        return
    if as_markdown:
        typer.echo(markdown(applied, commit))
        return
    if commit:
        say(f"Commit {commit[:12]}:")
    for one in applied:
        _say(one, dry_run, f"--git {git}" if git else f"-f {one.file}")


def _print(applied: list[Applied], commit: str) -> None:
    """Print one file's answer as the API gives it; several as a list."""
    if len(applied) == 1 and not commit:
        print_json(applied[0].response)
        return
    told: list[dict[str, Any]] = [
        {
            "kind": one.kind,
            "name": one.name,
            "file": one.file,
            **MessageToDict(one.response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True),
        }
        for one in applied
    ]
    typer.echo(json_text.dumps({"commit": commit, "applied": told}, indent=2, ensure_ascii=False))


def _say(one: Applied, dry_run: bool, source: str) -> None:
    if not one.changes:
        again = f" Start a run all the same: {_start(one)}" if one.kind == PROJECT and not dry_run else ""
        say(f"{one.name} is as the file says; nothing to do.{again}")
        return
    say(f"{one.name} would change (milonga apply {source}):" if dry_run else f"{one.name} changed:")
    say(*(f"  {change}" for change in one.changes))
    if dry_run:
        return
    if one.run:
        say(f"{one.run} started; follow it: milonga runs watch {one.run}")
    elif one.kind == PROJECT:
        say(f"no run was started; start one: {_start(one)}")
    elif one.kind == CHANNEL:
        say(f"see that messages arrive: milonga alerts test {one.name}")


def _start(one: Applied) -> str:
    """Return the line that starts a run of a project; without a data set it begins with a model from elsewhere."""
    if one.response.project.spec.dataset:
        return f"milonga runs start {one.name}"
    return f"milonga models import {one.name} FILE.onnx"
