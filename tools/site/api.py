"""The gRPC API as its .proto files describe it, comments and all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

_FOLDER = Path(__file__).parent.parent.parent / "protos"
_Field = descriptor_pb2.FieldDescriptorProto
# Where the parts of a file lie, as descriptor.proto numbers them.
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_OF_A_SERVICE = _OF_A_MESSAGE = _OF_AN_ENUM = 2
# The API of people and programs; devices speak AgentService, which is the agent's own.
_FIRST = ("projects", "datasets", "devices", "models", "rollouts", "telemetry")

Comments = Mapping[tuple[int, ...], str]


def api() -> str:
    """Return the page of all services, messages and enumerations."""
    files = {Path(one.name).stem: one for one in _described().file if one.package == "milonga.v1"}
    names = [*(name for name in _FIRST if name in files), *sorted(set(files) - set(_FIRST))]
    parts = [
        "# gRPC API",
        "Examples of each service stand in [Clients and the API](../api/index.md); this page is the whole of it. Package `milonga.v1`, at the hub's port 8443. Calls carry `authorization: Bearer KEY`; [who may call what](../security.md#people)"
        " is by role. `AgentService` is what devices speak at port 8444, with their certificates.",
    ]
    for name in names:
        parts += [f"## {name}.proto", *_file(files[name])]
    return "\n\n".join(parts) + "\n"


def _described() -> descriptor_pb2.FileDescriptorSet:
    """Return what protoc reads, with comments: generated code has none."""
    from grpc_tools import protoc

    paths = sorted(str(path.relative_to(_FOLDER)) for path in (_FOLDER / "milonga" / "v1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "all.pb"
        known = resources.files("grpc_tools") / "_proto"
        options = ["--include_source_info", f"--descriptor_set_out={out}", f"-I{_FOLDER}", f"-I{known}"]
        if protoc.main(["protoc", *options, *paths]):
            raise RuntimeError("protoc cannot read the .proto files")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def _file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    comments = {
        tuple(one.path): " ".join((one.leading_comments or one.trailing_comments).split())
        for one in file.source_code_info.location
    }
    for number, service in enumerate(file.service):
        yield from _service(service, comments, (_SERVICE, number))
    for number, message in enumerate(file.message_type):
        yield from _message(message, comments, (_MESSAGE, number))
    for number, enum in enumerate(file.enum_type):
        rows = [
            (f"`{value.name}`", str(value.number), comments.get((_ENUM, number, _OF_AN_ENUM, index), ""))
            for index, value in enumerate(enum.value)
        ]
        yield from _titled(enum.name, comments.get((_ENUM, number), ""), ("value", "number", "what"), rows)


def _service(service: Any, comments: Comments, place: tuple[int, ...]) -> Iterator[str]:
    rows = []
    for index, method in enumerate(service.method):
        asked, answered = (
            ("stream " if streaming else "") + f"`{kind.rpartition('.')[2]}`"
            for kind, streaming in (
                (method.input_type, method.client_streaming),
                (method.output_type, method.server_streaming),
            )
        )
        said = comments.get((*place, _OF_A_SERVICE, index), "")
        rows.append((f"`{method.name}`", f"{asked} → {answered}", said))
    yield from _titled(service.name, comments.get(place, ""), ("method", "takes → gives", "what"), rows)


def _message(message: Any, comments: Comments, place: tuple[int, ...]) -> Iterator[str]:
    if not message.field:
        return
    rows = [
        (f"`{field.name}`", _type(field), comments.get((*place, _OF_A_MESSAGE, index), ""))
        for index, field in enumerate(message.field)
    ]
    yield from _titled(message.name, comments.get(place, ""), ("field", "type", "what"), rows)


def _type(field: Any) -> str:
    named = field.type_name.rpartition(".")[2]
    kind = named or _Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    if named.endswith("Entry"):
        return "map"
    return ("repeated " if field.label == _Field.LABEL_REPEATED else "") + f"`{kind}`"


def _titled(name: str, words: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"### {name}"
    if words:
        yield words
    cells = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    yield "\n".join([f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *(f"| {row} |" for row in cells)])
