"""milonga datasets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from milonga.client.content import chunks_of
from milonga.v1 import datasets_pb2 as pb
from milonga.v1 import projects_pb2
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TransferSpeedColumn,
)

from milonga_hub.cli.client import Client, Hub, Json, Limit
from milonga_hub.cli.failures import NOT_FOUND, USAGE, Refused
from milonga_hub.cli.output import ago, clean, print_json, say, size, table, word
from milonga_hub.cli.packing import packed
from milonga_hub.cli.whole_files import write_whole
from milonga_hub.datasets.values import Layout

group = typer.Typer()

_SHOWN_REJECTED = 10
_SHOWN_CLASSES = 20
_LAYOUTS = {pb.DatasetLayout.Value(f"DATASET_LAYOUT_{each.name}"): each for each in Layout}


@group.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder with a folder of pictures for each class, or in the layout of YOLO (data.yaml), COCO (JSON) or"
            " Pascal VOC (XML), which is found out by itself; or a zip or tar of it."
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Of the data set.")],
    append: Annotated[
        bool, typer.Option("--append", help="Add to the newest version instead of replacing it.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if any picture cannot be used.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Send pictures to the hub as a new version of a data set."""
    with packed(source) as archive, _progress(json, DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task("sending", total=archive.stat().st_size)

        def chunks() -> Iterator[bytes]:
            for chunk in chunks_of(archive):
                yield chunk
                progress.advance(task, len(chunk))
            progress.update(task, description="the hub reads the pictures")

        with Client() as client:
            version = client.hub.datasets.import_dataset(name, chunks(), append=append, strict=strict)
    if json:
        print_json(pb.ImportDatasetResponse(dataset_version=version))
    else:
        _say_imported(version, name)


def _progress(json: bool, *further: ProgressColumn) -> Any:
    columns = (TextColumn("{task.description}"), BarColumn(), *further)
    # On stderr and only for people: stdout stays clean.
    return Progress(*columns, console=Console(stderr=True), disable=json or not sys.stderr.isatty(), transient=True)


def _read_as(version: pb.DatasetVersion) -> str:
    """Return in which layout the pictures were found."""
    return f" (from {_LAYOUTS[version.layout].spoken})" if version.layout in _LAYOUTS else ""


def _say_imported(version: pb.DatasetVersion, name: str) -> None:
    say(
        f"{version.name}{_read_as(version)}: {version.train_count} pictures to train, {version.validation_count} to validate,"
        f" {len(version.classes)} classes, {version.added_count} new, {version.duplicate_count} duplicates"
    )
    if version.task == projects_pb2.TASK_DETECTION:
        counts = (f"{clean(name)} {version.class_counts.get(name, 0)}" for name in version.classes[:_SHOWN_CLASSES])
        left = len(version.classes) - _SHOWN_CLASSES
        say(f"  boxes: {', '.join(counts)}{f', and {left} more classes' if left > 0 else ''}")
    for note in version.notes:
        say(f"  note: {clean(note)}")
    for each in version.rejected[:_SHOWN_REJECTED]:
        say(f"  left out: {clean(each.path)}: {clean(each.reason)}")
    if len(version.rejected) > _SHOWN_REJECTED:
        say(f"  and {len(version.rejected) - _SHOWN_REJECTED} more; see: milonga datasets versions {name} --json")


_FORMATS = {"folders": Layout.CLASS_FOLDERS, "yolo": Layout.YOLO, "coco": Layout.COCO, "voc": Layout.VOC}


@group.command("export")
def export(
    name: Annotated[str, typer.Argument(help="DATASET, which takes its newest version, or DATASET/NUMBER.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="folders, yolo, coco or voc; empty: folders to classify, yolo to detect.",
            show_default=False,
        ),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The zip file to write.", show_default="NAME-vNUMBER.zip")
    ] = None,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Download a version of a data set in a layout that other tools know, with its splits; imported again, it is the same."""
    if form and form not in _FORMATS:
        raise Refused(f"there is no format {form!r}; there are {', '.join(_FORMATS)}", USAGE)
    with Client() as client, _progress(json, TaskProgressColumn()) as progress:
        version = _version(client, name)
        target = output or Path(f"{version.dataset}-v{version.number}.zip")
        task = progress.add_task("receiving", total=version.train_count + version.validation_count)
        request = pb.DownloadDatasetVersionRequest(name=version.name)
        if form:
            request.layout = pb.DatasetLayout.Value(f"DATASET_LAYOUT_{_FORMATS[form].name}")

        def chunks() -> Iterator[bytes]:
            for each in client.datasets.DownloadDatasetVersion(request):
                progress.update(task, completed=each.written_count)
                yield each.chunk

        write_whole(target, chunks())
    size_bytes = target.stat().st_size
    if json:
        say(dumps({"path": str(target), "version": version.name, "digest": version.digest, "size_bytes": size_bytes}))
    else:
        say(
            f"{target}: {version.train_count + version.validation_count} pictures of {version.name}, {size(size_bytes)}"
        )


def _version(client: Client, name: str) -> pb.DatasetVersion:
    """Return the newest version of a data set, or the one that the name says."""
    dataset, _, number = name.removeprefix("datasets/").replace("/versions/", "/").partition("/")
    limit = 0 if number else 1
    request = pb.ListDatasetVersionsRequest(dataset=dataset)
    found = client.all(client.datasets.ListDatasetVersions, request, "dataset_versions", limit).dataset_versions
    for version in found:
        if number in ("", str(version.number)):
            return cast(pb.DatasetVersion, version)
    raise Refused(
        f"there is no version {number} of {dataset}; list them with: milonga datasets versions {dataset}", NOT_FOUND
    )


@group.command("list")
def list_(limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List data sets."""
    with Client() as client:
        response = client.all(client.datasets.ListDatasets, pb.ListDatasetsRequest(), "datasets", limit)
    if json:
        print_json(response)
    elif not response.datasets:
        say("no data sets yet; send pictures: milonga datasets import FOLDER --name NAME")
    else:
        rows = (
            (d.name, word(projects_pb2.Task, d.task), d.latest_version, len(d.classes), ago(d, "created_at"))
            for d in response.datasets
        )
        columns = ("data set", "task", "newest version", "classes", "made")
        table(columns, rows, right=columns[2:4])


@group.command("versions")
def versions(dataset: str, limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List the versions of a data set."""
    request = pb.ListDatasetVersionsRequest(dataset=dataset)
    with Client() as client:
        response = client.all(client.datasets.ListDatasetVersions, request, "dataset_versions", limit)
    if json:
        print_json(response)
    elif not response.dataset_versions:
        say(f"no versions yet; send pictures: milonga datasets import FOLDER --name {dataset}")
    else:
        rows = (
            (v.number, v.train_count, v.validation_count, v.added_count, len(v.rejected), ago(v, "created_at"))
            for v in response.dataset_versions
        )
        columns = ("version", "train", "validation", "new", "left out", "made")
        table(columns, rows, right=columns[:5])
