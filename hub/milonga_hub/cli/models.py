"""milonga models."""

from __future__ import annotations

from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from milonga.v1 import models_pb2 as pb

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit, version_name
from milonga_hub.cli.output import NONE, ago, clean, facts, measure, percent, print_json, say, short, size, table
from milonga_hub.cli.whole_files import write_whole

models = typer.Typer()

_SHOWN_CLASSES = 20


@models.command("list")
def list_models(limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List models."""
    with Client() as client:
        response = client.all(client.models.ListModels, pb.ListModelsRequest(), "models", limit)
    if json:
        print_json(response)
    elif not response.models:
        say(
            "no models yet; a run makes them (milonga apply -f PROJECT.yaml), or send one: milonga models import PROJECT FILE.onnx"
        )
    else:
        table(("model", "newest version"), ((m.name, m.latest_version) for m in response.models))


@models.command("versions")
def list_versions(model: str, limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List the versions of a model."""
    request = pb.ListModelVersionsRequest(model=model)
    with Client() as client:
        response = client.all(client.models.ListModelVersions, request, "model_versions", limit)
    if json:
        print_json(response)
    elif not response.model_versions:
        say(f"no versions of {model} yet; a run makes them: milonga runs start {model}")
    else:
        rows = ((v.name, v.run, v.dataset_version, ago(v, "created_at")) for v in response.model_versions)
        table(("version", "run", "data set", "made"), rows)


@models.command("show")
def show_version(
    version: Annotated[str, typer.Argument(help="models/MODEL/versions/NUMBER, or short MODEL/NUMBER.")],
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Show one version with its lineage."""
    request = pb.GetModelVersionRequest(name=version_name(version))
    with Client() as client:
        response = client.models.GetModelVersion(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
        return
    found = response.model_version
    facts(
        (
            ("version", found.name),
            ("run", found.run),
            *_imported(found.imported if found.HasField("imported") else None),
            ("data set", found.dataset_version),
            ("supernet", short(found.supernet)),
            ("made", ago(found, "created_at")),
        )
    )
    rows = (
        (name, short(subnet), percent(found.accuracies[name]) if name in found.accuracies else NONE)
        for name, subnet in sorted(found.subnets.items())
    )
    table(("device type", "subnet", measure(found.task)), rows, right=(measure(found.task),))
    for note in found.imported.notes:
        say(clean(note))
    if found.checkpoints:
        say(f"its checkpoints: milonga models checkpoint {version}")
    say(f"its builds: milonga build ls {version}")


def _imported(found: pb.ImportedModel | None) -> list[tuple[str, object]]:
    if found is None:
        return []
    return [
        ("imported", f"{clean(found.file_name)} by {clean(found.by)}"),
        ("file", found.digest),
        ("input", f"{found.size_px} px, {found.resize}, mean {_listed(found.mean)}, std {_listed(found.std)}"),
        ("classes", f"{len(found.classes)}: {clean(', '.join(found.classes[:_SHOWN_CLASSES]))}"),
    ]


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


@models.command("export")
def export_network(
    version: Annotated[str, typer.Argument(help="models/MODEL/versions/NUMBER, or short MODEL/NUMBER.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("model.onnx"),
    device_type: Annotated[
        str, typer.Option("--type", help="Of this device type; needed where they have networks of their own.")
    ] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Download a version's network as a plain ONNX file: input "image", output "logits", or "maps" of boxes."""
    with Client() as client:
        write_whole(output, client.hub.models.download_network(version_name(version), device_type=device_type))
    if json:
        say(dumps({"path": str(output), "size_bytes": output.stat().st_size}))
    else:
        say(f"{output}: {size(output.stat().st_size)}; try it: milonga-compiler build {output} --help")


@models.command("checkpoint")
def download_checkpoint(
    version: Annotated[str, typer.Argument(help="models/MODEL/versions/NUMBER, or short MODEL/NUMBER.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("subnet.pt"),
    device_type: Annotated[
        str, typer.Option("--type", help="Of this device type; needed where there are several.")
    ] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Download a detector's chosen subnet as ultralytics loads it: YOLO("subnet.pt")."""
    with Client() as client:
        write_whole(output, client.hub.models.download_checkpoint(version_name(version), device_type=device_type))
    if json:
        say(dumps({"path": str(output), "size_bytes": output.stat().st_size}))
    else:
        say(f"{output}: {size(output.stat().st_size)}; load it with ultralytics: YOLO({str(output)!r})")
