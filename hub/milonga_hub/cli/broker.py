"""milonga broker: what a broker that somebody else runs has to know. Works on the hub's own machine, beside a hub that runs."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milonga_hub.cli.client import Json
from milonga_hub.cli.failures import USAGE, Refused
from milonga_hub.cli.output import say

if TYPE_CHECKING:
    from milonga_hub.authority import Authority
    from milonga_hub.devices.certificates import Certificates

group = typer.Typer()

DataDir = Annotated[Path | None, typer.Option(help="The hub's data folder, as for milonga up (MILONGA_DATA_DIR).")]
_KINDS = ("mosquitto",)


def _hub(data_dir: Path | None) -> tuple[Authority, Certificates]:
    from milonga_hub.authority import Authority
    from milonga_hub.db import Database
    from milonga_hub.devices.certificates import Certificates
    from milonga_hub.settings import Settings

    settings = Settings(data_dir=data_dir) if data_dir else Settings()
    folder = settings.data_dir / "authority"
    if not (folder / "authority.pem").exists():
        raise Refused(
            f"no hub was started with the data folder {settings.data_dir}; name its folder: --data-dir", USAGE
        )
    database = Database(settings.resolved_database_url)
    database.create_tables()
    return Authority(folder), Certificates(database)


@group.command()
def config(
    kind: Annotated[str, typer.Argument(metavar="mosquitto", help="The broker that the files are for.")],
    folder: Annotated[Path, typer.Option(help="Where the files go. The one with the key is secret.")],
    place: Annotated[
        Path | None, typer.Option(help="Where they will be on the broker's machine, if not in the same folder.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port that the broker listens on.")] = 8883,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="A name of the broker's machine, for its certificate; repeatable."),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Write all that a broker needs to let in this hub and its devices, and nobody else: configuration, topics, certificates."""
    from milonga_hub.transports import mosquitto_files

    if kind not in _KINDS:
        raise Refused(f"{kind!r} is not a broker that files can be written for; there is: {', '.join(_KINDS)}", USAGE)
    authority, certificates = _hub(data_dir)
    here = mosquitto_files.Files(folder.absolute())
    there = mosquitto_files.Files(place or here.folder)
    mosquitto_files.write_identity(here, authority, names or [])
    mosquitto_files.write_admission(here, authority, certificates.revoked(), certificates.unlisted())
    here.config.write_text(mosquitto_files.config_text(there, "", port), encoding="utf-8")
    if json:
        written = [here.config, here.topics, here.authority, here.chain, here.key, here.revoked]
        typer.echo(json_text.dumps({"folder": str(here.folder), "files": [path.name for path in written]}))
        return
    say(f"wrote {here.folder}; keep {here.key.name} secret")
    say(f"on the broker's machine: mosquitto -c {there.config}")
    say(f"for the hub:             milonga up --broker mqtts://BROKER:{port}")
    say(f"when a device is revoked: milonga broker revoked > {there.revoked.name}, there, then kill -HUP mosquitto")


@group.command()
def revoked(data_dir: DataDir = None, json: Json = False) -> None:
    """Print the list of certificates that no broker may let in any more (a CRL, PEM)."""
    authority, certificates = _hub(data_dir)
    serials = certificates.revoked()
    if json:
        typer.echo(json_text.dumps({"serials": serials, "crl": authority.revocations(serials).decode()}))
    else:
        typer.echo(authority.revocations(serials).decode(), nl=False)
