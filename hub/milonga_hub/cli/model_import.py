"""milonga models import."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from milonga import yolo
from milonga.client.content import chunks_of
from milonga.v1 import models_pb2 as pb
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from milonga_hub.cli.client import Client, Hub, Json
from milonga_hub.cli.failures import NOT_FOUND, USAGE, Refused
from milonga_hub.cli.models import models
from milonga_hub.cli.output import clean, print_json, say
from milonga_hub.cli.runs import follow


def _three(text: str, option: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        values = [0.0]
    if len(values) not in (0, 3):
        raise Refused(f"{option} {text!r} is not three numbers, for red, green and blue: 0.485,0.456,0.406", USAGE)
    return values


def _classes(named: str, file: Path | None) -> list[str]:
    """Return the names that are given, one a line of a file, or those of a data.yaml."""
    if named and file is not None:
        raise Refused("say --classes or --classes-file, not both", USAGE)
    if file is None:
        return [name.strip() for name in named.split(",")] if named else []
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix not in (".yaml", ".yml"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        return list(yolo.names(yaml.safe_load(text)))
    except (yaml.YAMLError, ValueError) as error:
        raise Refused(f"{file}: {error}", USAGE) from error


@models.command("import")
def import_model(
    project: Annotated[str, typer.Argument(help="Whose devices it is built for; it becomes a version of its model.")],
    file: Annotated[
        Path, typer.Argument(help="ONNX file of a classifier or a YOLO detector, or a .pt of ultralytics.")
    ],
    classes: Annotated[
        str,
        typer.Option("--classes", metavar="A,B,C", help="In the order of its outputs; exports of ultralytics say it."),
    ] = "",
    classes_file: Annotated[
        Path | None, typer.Option("--classes-file", help="The same, one name a line, or a data.yaml with names.")
    ] = None,
    mean: Annotated[
        str, typer.Option("--mean", metavar="R,G,B", help="What it was trained with, on the scale 0 to 1.")
    ] = "",
    std: Annotated[
        str, typer.Option("--std", metavar="R,G,B", help="What it was trained with, on the scale 0 to 1.")
    ] = "",
    resize: Annotated[
        str,
        typer.Option("--resize", help="stretch or letterbox.", show_default="stretch to classify, letterbox to detect"),
    ] = "",
    size: Annotated[
        int,
        typer.Option("--size", help="Of the pictures in pixels, where the file leaves it open.", show_default=False),
    ] = 0,
    data: Annotated[
        str,
        typer.Option("--data", help="Data set to judge and calibrate on.", show_default="that of the project, if any"),
    ] = "",
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load a .pt, which runs whatever code is in it, on the hub.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow its run until it ends.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Send a model that was trained elsewhere, to be compiled for each device type, proved, measured and signed."""
    if not file.is_file():
        raise Refused(f"{file} is not there; name an ONNX file, or a .pt of ultralytics", NOT_FOUND)
    with _whole(file) as whole:
        response = _send(
            whole,
            quiet=json,
            project=project,
            classes=_classes(classes, classes_file),
            mean=_three(mean, "--mean"),
            std=_three(std, "--std"),
            resize=resize,
            size_px=size,
            dataset=data,
            trust_pickle=trust_pickle,
        )
    run = response.run
    short = f"{run.project}/{run.number}"
    if watch:
        follow(run.name, json)
    elif json:
        print_json(response)
    else:
        found = response.imported
        say(
            f"{clean(found.file_name)} is taken: {len(found.classes)} classes, {found.size_px} px, {found.resize}",
            *(clean(note) for note in found.notes),
            f"{run.name} builds it; follow it: milonga runs watch {short}",
        )


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Yield the file, or a copy with the weights that lie beside it: the hub takes one file."""
    if file.suffix != ".onnx":
        yield file
        return
    from milonga_compiler.errors import BuildFailed
    from milonga_compiler.network import in_one_file

    with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
        try:
            whole = in_one_file(file, Path(scratch))
        except BuildFailed as error:
            raise Refused(str(error), USAGE) from error
        yield whole


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _send(file: Path, quiet: bool, **said: Any) -> pb.ImportModelResponse:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    # On stderr and only for people: stdout stays clean.
    shown = Progress(*columns, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(), transient=True)
    with shown as progress:
        task = progress.add_task("sending", total=file.stat().st_size)

        def chunks() -> Iterator[bytes]:
            for chunk in chunks_of(file):
                yield chunk
                progress.advance(task, len(chunk))
            progress.update(task, description="the hub reads the network", total=None)

        with Client() as client:
            return client.hub.models.import_model(
                content=chunks(), file_name=file.name, digest=_digest(file), by=getpass.getuser(), **said
            )
