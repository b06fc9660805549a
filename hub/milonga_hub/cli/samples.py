"""milonga samples: pictures that devices sent to be labelled."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from milonga.v1 import labelling_pb2 as pb
from rich.console import Console
from rich.progress import Progress

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit
from milonga_hub.cli.failures import USAGE, Refused
from milonga_hub.cli.output import NONE, ago, clean, facts, percent, print_json, say, size, table, word

group = typer.Typer()

_ENDINGS = {"image/png": "png", "image/jpeg": "jpg"}
# Samples that wait come in one page of this size at most.
_AT_ONCE = 1000
_STATES = {word(pb.SampleState, number): number for number in pb.SampleState.values()[1:]}

Project = Annotated[str, typer.Argument(metavar="PROJECT")]
Name = Annotated[str, typer.Argument(metavar="SAMPLE", help="PROJECT/SAMPLE; see: milonga samples ls.")]


def _me() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container without a user of that number.
        return ""


Replace = Annotated[bool, typer.Option("--replace", help="Also what somebody else decided.")]
By = Annotated[str, typer.Option("--by", default_factory=_me, help="Who; you, if left out.", show_default=False)]


def _full(text: str) -> str:
    """Return the full name of a sample: "parts/0a1b" is short for projects/parts/samples/0a1b."""
    project, slash, sample = text.partition("/")
    return f"projects/{project}/samples/{sample}" if slash and "/" not in sample else text


def _short(name: str) -> str:
    parts = name.split("/")
    return f"{parts[1]}/{parts[3]}" if len(parts) == 4 else name


def _state(text: str) -> int:
    if text == "all":
        return int(pb.SAMPLE_STATE_UNSPECIFIED)
    if text not in _STATES:
        raise Refused(f"--state takes {', '.join(_STATES)} or all; {text!r} is none of them", USAGE)
    return int(_STATES[text])


def _request(project: str, state: str, device: str = "") -> pb.ListSamplesRequest:
    number = pb.SampleState.ValueType(_state(state))
    return pb.ListSamplesRequest(project=project, state=number, device=device)


def _limit(request: pb.ListSamplesRequest, limit: int) -> int:
    return limit or (_AT_ONCE if request.state == pb.SAMPLE_STATE_WAITING else 0)


def _answer(sample: pb.Sample) -> str:
    return _objects(sample.predicted_boxes) or sample.predicted or NONE


def _objects(boxes: Sequence[pb.SampleBox]) -> str:
    names = [box.label for box in boxes]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _said(sample: pb.Sample) -> str:
    if sample.state == pb.SAMPLE_STATE_CONFLICT:
        return sample.message
    return sample.label or (f"{len(sample.boxes)} boxes" if sample.state == pb.SAMPLE_STATE_LABELLED else NONE)


@group.command("list")
def list_(
    project: Project,
    state: Annotated[str, typer.Option(help="waiting, labelled, skipped, refused, conflict or all.")] = "waiting",
    device: Annotated[str, typer.Option(help="Only of this device.")] = "",
    limit: Limit = 50,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List samples: those that wait in the order in which they should be labelled, others the newest first."""
    request = _request(project, state, device)
    with Client() as client:
        response = client.all(client.labelling.ListSamples, request, "samples", _limit(request, limit))
    if json:
        print_json(response)
    elif not response.samples:
        say(f"no samples ({state}); how to get some: milonga samples status {project}")
    else:
        rows = (
            (
                _short(s.name),
                word(pb.SampleState, s.state),
                _answer(s),
                percent(s.confidence),
                _said(s),
                s.device,
                ago(s, "received_at"),
            )
            for s in response.samples
        )
        table(("sample", "state", "device says", "sure", "label", "device", "received"), rows, right=("sure",))


def _a_day(found: pb.Labelling) -> str:
    return f"{found.pictures_per_day} pictures and {size(found.bytes_per_day)}"


def _say_spent(found: pb.Labelling) -> None:
    """Tell which devices send no more for now."""
    say("", f"{found.spent_count} device(s) have sent what they may in 24 hours, and keep no more pictures for now:")
    rows = (
        (
            each.device,
            f"{each.pictures} of {found.pictures_per_day}",
            f"{size(each.size_bytes)} of {size(found.bytes_per_day)}",
            ago(each, "free_at"),
        )
        for each in found.spent
    )
    table(("device", "pictures", "size", "sends again"), rows, right=("pictures", "size"))
    if found.spent_count > len(found.spent):
        say(f"and {found.spent_count - len(found.spent)} more")


@group.command("status")
def status(project: Project, hub: Hub = None, json: Json = False) -> None:
    """Say how much waits and is done, what keeps devices from sending, and how often they were right."""
    with Client() as client:
        response = client.labelling.GetLabelling(pb.GetLabellingRequest(project=project), timeout=CALL_SECONDS)
    if json:
        print_json(response)
        return
    found = response.labelling
    off = "off: no picture leaves a device; to change that, set spec.samples.enabled: true and apply it"
    kept = f"to delete them: milonga samples discard {found.project}"
    facts(
        (
            ("project", found.project),
            ("sampling", f"on: at most {_a_day(found)} in 24 hours leave each device" if found.enabled else off),
            ("waiting", found.waiting if found.enabled or not found.waiting else f"{found.waiting}; {kept}"),
            ("labelled", f"{found.labelled}, of which {found.pending} are not part of the data set yet"),
            ("skipped", found.skipped),
            ("refused", found.refused or ""),
            ("done today", found.done_today),
            ("dropped on devices", found.dropped or ""),
            ("uploads stopped", found.stopped),
            ("two people disagree", found.conflicts or ""),
        )
    )
    if found.spent:
        _say_spent(found)
    if found.agreement.pictures:
        say(f"two people agree on {found.agreement.agreed} of {found.agreement.pictures} pictures")
        kappas = (
            (one.label, one.pictures, f"{one.kappa:.2f}" if one.HasField("kappa") else NONE)
            for one in found.agreement.classes
        )
        table(("class", "pictures", "Cohen's kappa"), kappas, right=("pictures", "Cohen's kappa"))
    if found.accuracies:
        rows = (
            (a.device_type, a.labelled, a.right, percent(a.accuracy), f"{percent(a.low)} to {percent(a.high)}")
            for a in found.accuracies
        )
        columns = ("device type", "chosen by chance", "right", "accuracy", "95 % interval")
        table(columns, rows, right=columns[1:])


@group.command("show")
def show(sample: Name, hub: Hub = None, json: Json = False) -> None:
    """Show a sample, and all that was decided of it."""
    with Client() as client:
        response = _get(client, sample)
    if json:
        print_json(response)
        return
    found = response.sample
    facts(
        (
            ("sample", _short(found.name)),
            ("state", word(pb.SampleState, found.state)),
            ("device says", f"{_answer(found)}, {percent(found.confidence)} sure"),
            ("label", _said(found)),
            ("device", found.device),
            ("received", ago(found, "received_at")),
            ("part of", found.dataset_version),
            ("message", found.message),
        )
    )
    if found.history:
        rows = (
            (ago(one, "at"), one.by or NONE, word(pb.SampleState, one.state), _decided(one)) for one in found.history
        )
        table(("decided", "by", "state", "label"), rows)


def _get(client: Client, sample: str) -> pb.GetSampleResponse:
    response: pb.GetSampleResponse = client.labelling.GetSample(
        pb.GetSampleRequest(name=_full(sample)), timeout=CALL_SECONDS
    )
    return response


def _decided(one: pb.Decision) -> str:
    return one.label or (_objects(one.boxes) or "no object" if one.state == pb.SAMPLE_STATE_LABELLED else NONE)


@group.command("label")
def label(
    sample: Name,
    by: By,
    label: Annotated[str, typer.Argument(help="A class of the data set.")] = "",
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box", metavar="CLASS:X,Y,W,H", help="An object: centre, width and height from 0 to 1; may be repeated."
        ),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="There is no object in the picture.")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="The device's answer is right.")] = False,
    replace: Replace = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Say what a sample shows."""
    boxes = [_box(text) for text in box or []]
    if sum((bool(label), bool(boxes), none, accept)) != 1:
        raise Refused("give one of: a class, --box (of each object), --none, or --accept", USAGE)
    request = pb.LabelSampleRequest(name=_full(sample), label=label, boxes=boxes, accept=accept, decided_by=by)
    with Client() as client:
        if replace:
            request.revision = _get(client, sample).sample.revision
        response = client.labelling.LabelSample(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{_short(response.sample.name)}: {clean(_said(response.sample))}; undo: milonga samples undo {sample}")


def _box(text: str) -> pb.SampleBox:
    name, colon, sides = text.rpartition(":")
    try:
        x, y, width, height = (float(side) for side in sides.split(","))
    except ValueError as error:
        raise Refused(
            f"--box takes CLASS:X,Y,WIDTH,HEIGHT such as nut:0.5,0.5,0.2,0.1; {text!r} is not that", USAGE
        ) from error
    if not colon or not name:
        raise Refused(f"--box {text} names no class; write for example nut:{sides}", USAGE)
    return pb.SampleBox(label=name, x=x, y=y, width=width, height=height)


@group.command("skip")
def skip(sample: Name, by: By, replace: Replace = False, hub: Hub = None, json: Json = False) -> None:
    """Say that a sample is not worth a label; its picture is deleted after an hour."""
    request = pb.SkipSampleRequest(name=_full(sample), decided_by=by)
    with Client() as client:
        if replace:
            request.revision = _get(client, sample).sample.revision
        response = client.labelling.SkipSample(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{_short(response.sample.name)} is skipped; undo within an hour: milonga samples undo {sample}")


@group.command("undo")
def undo(sample: Name, by: By, replace: Replace = False, hub: Hub = None, json: Json = False) -> None:
    """Let a sample wait again, as long as its label is not part of the data set."""
    request = pb.UndoSampleRequest(name=_full(sample), decided_by=by)
    with Client() as client:
        if replace:
            request.revision = _get(client, sample).sample.revision
        response = client.labelling.UndoSample(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{_short(response.sample.name)} waits again")


@group.command("add")
def add(project: Project, hub: Hub = None, json: Json = False) -> None:
    """Make what is labelled part of the project's data set now, without waiting for the hub to do so."""
    with Client() as client:
        response = client.labelling.AddLabelledSamples(pb.AddLabelledSamplesRequest(project=project), timeout=None)
    if json:
        print_json(response)
    elif response.dataset_version:
        say(f"{response.added_count} labelled pictures of devices are part of {response.dataset_version}")
    else:
        say("nothing is labelled that is not part of the data set")


@group.command("discard")
def discard(
    project: Project,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Delete the pictures that wait; devices do not send them again."""
    if not yes:
        typer.confirm(f"Delete all pictures of {project} that wait to be labelled?", abort=True, err=True)
    with Client() as client:
        response = client.labelling.DiscardSamples(pb.DiscardSamplesRequest(project=project), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{response.discarded_count} pictures are deleted")


@group.command("export")
def export(
    project: Project,
    folder: Annotated[Path, typer.Argument(help="Where to write; made if need be.")],
    state: Annotated[str, typer.Option(help="waiting, labelled, or all.")] = "labelled",
    limit: Limit = 0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Write pictures into a folder for each class (boxes: beside the picture, as JSON), and samples.json about them all."""
    request = _request(project, state)
    with Client() as client:
        response = client.all(client.labelling.ListSamples, request, "samples", _limit(request, limit))
        written = _write(client, response, folder, json)
    if json:
        print_json(response)
    else:
        say(f"{len(written)} pictures ({size(sum(written))}) and samples.json are in {folder}")


def _write(client: Client, response: Any, folder: Path, json: bool) -> list[int]:
    """Write the pictures that the hub still has; return their sizes."""
    from google.protobuf.json_format import MessageToJson

    def described(message: Any) -> str:
        return str(MessageToJson(message, preserving_proto_field_name=True, ensure_ascii=False))

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    quiet = json or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as progress:
        for sample in progress.track(response.samples, description="fetching"):
            if sample.like or sample.state == pb.SAMPLE_STATE_REFUSED:
                continue
            request = pb.GetSamplePictureRequest(name=sample.name)
            try:
                found = client.labelling.GetSamplePicture(request, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                continue  # It was skipped, and then deleted.
            place = folder / _folder(sample) / f"{sample.name.rpartition('/')[2]}.{_ENDINGS[found.media_type]}"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(found.picture)
            if sample.boxes:
                place.with_suffix(".json").write_text(described(sample), encoding="utf-8")
            written.append(len(found.picture))
    (folder / "samples.json").write_text(described(response), encoding="utf-8")
    return written


def _folder(sample: pb.Sample) -> str:
    """Return a class as the name of a folder, whatever is written in it."""
    named = "".join("_" if letter in "/\\\0" else letter for letter in sample.label).strip(". ")
    return named or word(pb.SampleState, sample.state)
