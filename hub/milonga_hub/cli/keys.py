"""milonga keys: who signs what devices install. Works on the hub's own machine, beside a hub that runs; sign works anywhere."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milonga_hub.cli.client import Json
from milonga_hub.cli.output import NONE, clean, say, table

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata

    from milonga_hub.signing.service import SigningService

group = typer.Typer()

DataDir = Annotated[Path | None, typer.Option(help="The hub's data folder, as for milonga up (MILONGA_DATA_DIR).")]
Role = Annotated[str, typer.Argument(help="root, targets, timestamp, snapshot, or project-NAME.")]


def _service(data_dir: Path | None) -> SigningService:
    from milonga_hub.settings import Settings
    from milonga_hub.signing.service import SigningService

    return SigningService((Settings(data_dir=data_dir) if data_dir else Settings()).data_dir / "signing")


@group.command()
def init(
    keys: Annotated[int, typer.Option(min=1, help="How many keys root and targets have, each.")] = 1,
    threshold: Annotated[int, typer.Option(min=1, help="How many of them must sign.")] = 1,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make the keys and the first signed metadata; milonga up does so too, with one key for each role."""
    service = _service(data_dir)
    made, folder = service.prepare(keys, threshold), service.ring.folder
    words = f"made the keys in {folder}; move those of root and targets elsewhere with: milonga keys export"
    _say({"made": made, "folder": str(folder)}, words if made else f"there are keys in {folder} already", json)


@group.command()
def status(data_dir: DataDir = None, json: Json = False) -> None:
    """List roles, who may sign for them, where the keys are, and what waits for signatures."""
    from milonga_hub.signing.keys import short

    service = _service(data_dir)
    roles = service.status()
    waiting = service.staged_files()
    if json:
        told = [
            {**vars(role), "expires_at": role.expires_at.isoformat() if role.expires_at else None} for role in roles
        ]
        typer.echo(json_text.dumps({"roles": told, "waiting": [str(path) for path in waiting]}, indent=2))
        return
    rows = [
        (
            role.role,
            f"{role.threshold} of {len(role.key_ids)}",
            ", ".join(short(key) + (" (here)" if key in role.here else "") for key in role.key_ids),
            role.version or NONE,
            f"{role.expires_at:%Y-%m-%d}" if role.expires_at else NONE,
            _waits(role.missing_signatures),
        )
        for role in roles
    ]
    table(("role", "signers", "keys", "version", "good until", "change that waits"), rows)
    lacking = [role for role in roles if role.lacking_key_ids]
    if lacking:
        files = " ".join(str(path) for path in waiting if any(_is_of(path, role.role) for role in lacking))
        keys = dict.fromkeys(f"--key {short(key)}.pem" for role in lacking for key in role.lacking_key_ids)
        say("Sign what waits where the keys are, bring it back, and publish it:")
        typer.echo(f"  milonga keys sign {files} {' '.join(keys)}")
        typer.echo(f"  milonga keys publish {files}")


def _waits(missing: int | None) -> str:
    if missing is None:
        return NONE
    # Where it has its own, another role's change must come first or at once.
    return "waits for the others" if not missing else f"lacks {missing} signature{'s' if missing > 1 else ''}"


def _is_of(path: Path, role: str) -> bool:
    return path.name.partition(".")[2] == f"{role}.json"


@group.command("generate")
def generate_(
    folder: Annotated[Path, typer.Argument(help="Where to: ID.pem is secret, ID.pub is for the hub.")],
    json: Json = False,
) -> None:
    """Make a key on this machine, which need not be the hub's; give ID.pub to milonga keys rotate."""
    from milonga_hub.signing.keys import generate, short

    folder.mkdir(parents=True, exist_ok=True)
    made = folder / short(generate(folder).public_key.keyid)
    words = f"made {made}.pem (keep it secret, and a copy of it) and {made}.pub"
    _say({"private_key": f"{made}.pem", "public_key": f"{made}.pub"}, words, json)


@group.command()
def export(
    role: Role,
    folder: Annotated[Path, typer.Argument(help="Where to, for example a stick that you take away.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Move a role's keys off the hub. From then on people sign what the role must sign."""
    service = _service(data_dir)
    threshold = next((each.threshold for each in service.status() if each.role == role), 1)
    moved = [str(path) for path in service.export(role, folder)]
    of_them = "it" if len(moved) == 1 else f"{threshold} of them"
    words = f"moved to {', '.join(moved)}: without {of_them} nothing that {role} signs can change, so keep a copy"
    if threshold > 1:
        words += f"; whoever has {threshold} of them signs alone, so give each to somebody else"
    _say({"moved": moved}, words, json)


@group.command()
def rotate(
    role: Role,
    key: Annotated[
        list[Path] | None, typer.Option(help="File of a public key; may be repeated. Default: a new key, made here.")
    ] = None,
    threshold: Annotated[int, typer.Option(min=1, help="How many of the keys must sign.")] = 1,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Let other keys sign for a role in place of those that do now. Devices follow by themselves."""
    from milonga_hub.signing.keys import read_public

    service = _service(data_dir)
    _tell(service, service.rotate(role, [read_public(path) for path in key or []], threshold), json)


@group.command()
def renew(role: Role, data_dir: DataDir = None, json: Json = False) -> None:
    """Let a role sign again before what it signed ends. The hub does so itself for the keys that it holds."""
    service = _service(data_dir)
    _tell(service, service.renew(role), json)


@group.command()
def sign(
    files: Annotated[list[Path], typer.Argument(help="Metadata that waits: milonga keys status names it.")],
    key: Annotated[list[Path], typer.Option(help="File of a private key; may be repeated.")],
    json: Json = False,
) -> None:
    """Add signatures to metadata, in its files. Needs no hub: take it to where the keys are."""
    from milonga_compiler.files import write_atomically

    from milonga_hub.signing import rules
    from milonga_hub.signing.keys import read_private, short

    signers = [read_private(path) for path in key]
    signed = {}
    # All are read before one is written: nobody has to find out which were signed.
    for path, metadata in [(path, _read(path)) for path in files]:
        for signer in signers:
            metadata.sign(signer, append=True)
        write_atomically(path, metadata.to_bytes().decode())
        signed[str(path)] = rules.described(metadata.signed)
    by = " and ".join(short(signer.public_key.keyid) for signer in signers)
    words = [
        line
        for path, lines in signed.items()
        for line in (f"signed {path} with {by}", *(f"  {each}" for each in lines))
    ]
    _say({"signed": signed}, "\n".join(words), json)


@group.command()
def publish(
    files: Annotated[list[Path], typer.Argument(help="Metadata that was signed.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Put signed metadata in force, once enough keys have signed it."""
    service = _service(data_dir)
    _tell(service, service.publish([_read(path) for path in files]), json)


def _read(path: Path) -> Metadata[Any]:
    from milonga_hub.errors import InvalidInput
    from milonga_hub.signing import rules

    try:
        return rules.parse(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def _tell(service: SigningService, in_force: bool, json: bool) -> None:
    waits = f"waits in {service.folder / 'staged'} for signatures; see: milonga keys status"
    words = "in force; devices learn of it before they install the next build" if in_force else waits
    _say({"in_force": in_force, "waiting": [str(path) for path in service.staged_files()]}, words, json)


def _say(facts: dict[str, Any], words: str, json: bool) -> None:
    if json:
        typer.echo(json_text.dumps(facts, indent=2))
        return
    say(*(clean(line) for line in words.split("\n")))
