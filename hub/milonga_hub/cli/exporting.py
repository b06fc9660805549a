"""milonga export."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from milonga.v1 import datasets_pb2, projects_pb2
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from milonga_hub.cli.client import Client, Hub, Json, run_name
from milonga_hub.cli.failures import FAILED, Refused
from milonga_hub.cli.output import say
from milonga_hub.cli.whole_files import write_whole

group = typer.Typer()

_IMAGE = "milonga-hub:0.1.0"


@group.callback()
def _only_groups() -> None:
    """Take what the hub does to other tools."""


@group.command("kfp")
def kfp(
    run: Annotated[str, typer.Argument(help="projects/PROJECT/runs/NUMBER, or short PROJECT/NUMBER.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write.", show_default="PROJECT-NUMBER-kfp")
    ] = None,
    image: Annotated[
        str, typer.Option("--image", help="What the steps run in: hub/Containerfile, built with kfp among its EXTRAS.")
    ] = _IMAGE,
    uri: Annotated[
        str, typer.Option("--uri", help="Where you copy the folder to, as the cluster sees it: gs://BUCKET/digits-1.")
    ] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Write a run as a pipeline for Kubeflow or Vertex AI, with the files that it reads: the same jobs, without a hub."""
    try:
        from milonga_hub.exchange.kubeflow import pipeline
    except ImportError as error:
        raise Refused(
            f"{error}; pipelines are written with their SDK: pip install 'milonga-hub[kfp]'", FAILED
        ) from error
    from milonga_hub.exchange.kubeflow.artifacts import RunFile
    from milonga_hub.runs.exports import MEASUREMENTS

    name = run_name(run)
    folder = output or Path(f"{'-'.join(name.split('/')[1::2])}-kfp")
    folder.mkdir(parents=True, exist_ok=True)
    with Client() as client, _progress(json) as progress:
        task = progress.add_task("receiving the run", total=None)
        sent = client.runs.DownloadRun(projects_pb2.DownloadRunRequest(name=name))
        write_whole(folder / "run.zip", (each.chunk for each in sent))
        about = RunFile(folder / "run.zip")
        progress.update(task, description="receiving the pictures")
        request = datasets_pb2.DownloadDatasetVersionRequest(name=about.plan.dataset_version)

        def pictures() -> Iterator[bytes]:
            for each in client.datasets.DownloadDatasetVersion(request):
                progress.update(task, total=each.picture_count, completed=each.written_count)
                yield each.chunk

        write_whole(folder / "dataset.zip", pictures())
    with zipfile.ZipFile(folder / "run.zip") as archive:
        (folder / MEASUREMENTS).write_bytes(archive.read(MEASUREMENTS))
    pipeline.write(about.plan, name, image, uri or str(folder.resolve()), folder / "pipeline.yaml")
    if json:
        say(dumps({"folder": str(folder), "run": name, "types": [item.name for item in about.plan.types]}))
        return
    say(
        f"{folder}: pipeline.yaml, run.zip, dataset.zip, measurements.json. The latencies in it are those that devices"
        f" measured for {name}: a cluster has none.",
        f"Copy the folder to {uri or 'a bucket of the cluster'}, and submit pipeline.yaml; docs/pipelines.md tells how.",
    )


def _progress(json: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn())
    # On stderr and only for people: stdout stays clean.
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=json or not console.is_terminal, transient=True)
