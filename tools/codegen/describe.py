"""What the protocol says of its services: names, types and comments, as plain values."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

PROTOS = Path(__file__).parents[2] / "protos"
# They are for devices, which have certificates; programs cannot call them.
_OF_DEVICES = ("EnrolmentService", "AgentService")
# One is enough of these.
_UNCOUNTABLE = ("Labelling", "Telemetry")
_PAGING = ("page_size", "page_token")
# Numbers of fields in descriptor.proto, of which the paths of comments are made.
_SERVICES, _METHODS, _MESSAGES, _FIELDS, _ENUMS, _VALUES = 6, 2, 4, 2, 5, 2

_SCALARS = {
    FieldDescriptorProto.TYPE_DOUBLE: "float",
    FieldDescriptorProto.TYPE_FLOAT: "float",
    FieldDescriptorProto.TYPE_INT32: "int",
    FieldDescriptorProto.TYPE_INT64: "int",
    FieldDescriptorProto.TYPE_UINT32: "int",
    FieldDescriptorProto.TYPE_UINT64: "int",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "str",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
}
_EMPTY = {"float": "0.0", "int": "0", "bool": "False", "str": '""', "bytes": 'b""'}


class Kind(Enum):
    """How a method is called."""

    ONCE = "once"
    # All rows, page by page.
    ROWS = "rows"
    # What happens, until the program has seen enough.
    WATCH = "watch"
    DOWNLOAD = "download"
    UPLOAD = "upload"


@dataclass(frozen=True)
class Parameter:
    """One field of a request, as a program gives it."""

    name: str
    type: str
    # "" for what must be given.
    default: str
    comment: str
    is_time: bool = False
    # Given by its name.
    is_keyword: bool = True


@dataclass(frozen=True)
class Field:
    """One field of a message, as the pages show it."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True)
class Message:
    """A message of the protocol, or an enumeration."""

    name: str
    comment: str
    fields: tuple[Field, ...]
    is_enum: bool = False


@dataclass(frozen=True)
class Method:
    """One method of a service."""

    name: str
    path: str
    kind: Kind
    comment: str
    # "devices_pb2.GetDeviceRequest".
    request: str
    response: str
    parameters: tuple[Parameter, ...]
    # The field of the response that is returned, "" for the response itself; None where it has no fields.
    field: str | None
    # What is returned, or each of what is yielded.
    type: str
    # Of the first message of what is sent in chunks.
    header: str
    takes_request_id: bool
    has_pages: bool
    # "", "IDEMPOTENT" or "NO_SIDE_EFFECTS".
    repeats: str

    @property
    def python_name(self) -> str:
        return snake(self.name)


@dataclass(frozen=True)
class Service:
    """One service of the hub."""

    name: str
    comment: str
    methods: tuple[Method, ...]
    # Those that the methods speak of, in the order in which they are met.
    messages: tuple[Message, ...]

    @property
    def class_name(self) -> str:
        stem = self.name.removesuffix("Service")
        return stem if stem in _UNCOUNTABLE else f"{stem}s"

    @property
    def attribute(self) -> str:
        return snake(self.class_name)


def snake(name: str) -> str:
    """Return "list_join_tokens" of "ListJoinTokens"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def described() -> list[Service]:
    """Return all services that programs may call, by name."""
    world = _World(_compiled())
    found = [
        world.service(file, index)
        for file in world.files
        for index, service in enumerate(file.service)
        if service.name not in _OF_DEVICES
    ]
    return sorted(found, key=lambda service: service.attribute)


def _compiled() -> FileDescriptorSet:
    """Return what protoc makes of the protocol, with its comments."""
    names = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "milonga" / "v1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all"
        well_known = Path(grpc_tools.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}", "--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main([*arguments, *names]) != 0:
            raise SystemExit("protoc does not understand the protocol; it says why above")
        return FileDescriptorSet.FromString(out.read_bytes())


class _World:
    """All files, and who is where."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.files = list(files.file)
        self._comments = {
            file.name: {tuple(each.path): _words(each.leading_comments) for each in file.source_code_info.location}
            for file in self.files
        }
        self._messages: dict[str, tuple[FileDescriptorProto, int]] = {
            f".{file.package}.{message.name}": (file, index)
            for file in self.files
            for index, message in enumerate(file.message_type)
        }
        self._enums = {
            f".{file.package}.{enum.name}": (file, index)
            for file in self.files
            for index, enum in enumerate(file.enum_type)
        }

    def service(self, file: FileDescriptorProto, index: int) -> Service:
        service = file.service[index]
        methods = tuple(self._method(file, service, index, number) for number in range(len(service.method)))
        return Service(service.name, self._comment(file, _SERVICES, index), methods, self._told(service))

    def _method(self, file: FileDescriptorProto, service: ServiceDescriptorProto, index: int, number: int) -> Method:
        method = service.method[number]
        request, response = self._message(method.input_type), self._message(method.output_type)
        kind = _kind(method, response)
        fields = [each for each in response.field if each.name != "next_page_token"]
        field = None if not fields else fields[0].name if len(fields) == 1 else ""
        header = ""
        given = method.input_type
        if kind is Kind.UPLOAD:
            given = next(each.type_name for each in request.field if each.name == "header")
            header = self._python(given)
        names = {each.name for each in self._message(given).field}
        if kind is Kind.ROWS or field:
            shown = self._python_item(fields[0])
        else:
            shown = "None" if field is None else self._python(method.output_type)
        level = method.options.idempotency_level
        return Method(
            name=method.name,
            path=f"/{file.package}.{service.name}/{method.name}",
            kind=kind,
            comment=self._comment(file, _SERVICES, index, _METHODS, number),
            request=self._python(method.input_type),
            response=self._python(method.output_type),
            parameters=self._parameters(given),
            field=field,
            type="bytes" if kind is Kind.DOWNLOAD else shown,
            header=header,
            takes_request_id="request_id" in names,
            has_pages="page_token" in names,
            repeats="" if level == MethodOptions.IDEMPOTENCY_UNKNOWN else MethodOptions.IdempotencyLevel.Name(level),
        )

    def _parameters(self, name: str) -> tuple[Parameter, ...]:
        file, index = self._messages[name]
        message = file.message_type[index]
        found = []
        for number, field in enumerate(message.field):
            if field.name in ("page_token", "request_id"):
                continue
            comment = self._comment(file, _MESSAGES, index, _FIELDS, number)
            is_first = not any(each.name not in _PAGING for each in message.field[:number])
            found.append(self._parameter(message, field, comment, is_first))
        # Those of paging come last, whatever their numbers.
        return tuple(sorted(found, key=lambda each: each.name in _PAGING))

    def _parameter(
        self, message: DescriptorProto, field: FieldDescriptorProto, comment: str, is_first: bool
    ) -> Parameter:
        entry = self._entry(message, field)
        if entry is not None:
            key, value = (self._python_item(each) for each in entry.field)
            return Parameter(field.name, f"Mapping[{key}, {value}] | None", "None", comment)
        kind = self._python_item(field)
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return Parameter(field.name, f"Sequence[{kind}]", "()", comment)
        is_time = field.type_name == ".google.protobuf.Timestamp"
        is_subject = is_first and kind == "str" and field.name not in _PAGING
        # What a call is about must be said, where nothing is not a way to say "all".
        if (is_subject and "mpty" not in comment) or comment.startswith("Required"):
            return Parameter(field.name, kind, "", comment, is_time, is_keyword=not is_subject)
        if field.type == FieldDescriptorProto.TYPE_MESSAGE or field.proto3_optional:
            return Parameter(field.name, f"{kind} | None", "None", comment, is_time)
        if field.type == FieldDescriptorProto.TYPE_ENUM:
            first = self._enum(field.type_name).value[0].name
            return Parameter(field.name, kind, f"{kind.partition('.')[0]}.{first}", comment)
        return Parameter(field.name, kind, _EMPTY[kind], comment, is_keyword=not is_subject)

    def _told(self, service: ServiceDescriptorProto) -> tuple[Message, ...]:
        """Return what methods take and return, and what is in it; a request is told by its parameters."""
        found: dict[str, Message] = {}
        for method in service.method:
            self._tell(method.input_type, found, is_wrapper=True)
            fields = [each for each in self._message(method.output_type).field if each.name != "next_page_token"]
            self._tell(method.output_type, found, is_wrapper=len(fields) <= 1)
        return tuple(found.values())

    def _tell(self, name: str, found: dict[str, Message], is_wrapper: bool = False) -> None:
        if name in found or name.startswith(".google."):
            return
        if name in self._enums:
            file, index = self._enums[name]
            values = tuple(
                Field(value.name, "", self._comment(file, _ENUMS, index, _VALUES, number))
                for number, value in enumerate(file.enum_type[index].value)
            )
            found[name] = Message(_short(name), self._comment(file, _ENUMS, index), values, is_enum=True)
            return
        file, index = self._messages[name]
        message = file.message_type[index]
        if not is_wrapper:
            fields = tuple(
                Field(field.name, self._shown(message, field), self._comment(file, _MESSAGES, index, _FIELDS, number))
                for number, field in enumerate(message.field)
            )
            found[name] = Message(_short(name), self._comment(file, _MESSAGES, index), fields)
        for field in message.field:
            entry = self._entry(message, field)
            for each in [field] if entry is None else entry.field:
                if each.type_name:
                    self._tell(each.type_name, found, is_wrapper=each.type_name.endswith("Header"))

    def _shown(self, message: DescriptorProto, field: FieldDescriptorProto) -> str:
        entry = self._entry(message, field)
        if entry is not None:
            key, value = (_word(each) for each in entry.field)
            return f"map<{key}, {value}>"
        word = _word(field)
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {word}"
        return f"optional {word}" if field.proto3_optional else word

    def _python_item(self, field: FieldDescriptorProto) -> str:
        if field.type == FieldDescriptorProto.TYPE_ENUM:
            return f"{self._python(field.type_name)}.ValueType"
        return _SCALARS.get(field.type) or self._python(field.type_name)

    def _python(self, name: str) -> str:
        if name == ".google.protobuf.Timestamp":
            return "datetime"
        file, _ = self._messages.get(name) or self._enums[name]
        return f"{Path(file.name).stem}_pb2.{_short(name)}"

    def _message(self, name: str) -> DescriptorProto:
        file, index = self._messages[name]
        return file.message_type[index]

    def _enum(self, name: str) -> EnumDescriptorProto:
        file, index = self._enums[name]
        return file.enum_type[index]

    @staticmethod
    def _entry(message: DescriptorProto, field: FieldDescriptorProto) -> DescriptorProto | None:
        """Return the pair that a map is made of, None for other fields."""
        name = field.type_name.rpartition(".")[2]
        return next((each for each in message.nested_type if each.name == name and each.options.map_entry), None)

    def _comment(self, file: FileDescriptorProto, *path: int) -> str:
        return self._comments[file.name].get(path, "")


def _kind(method: MethodDescriptorProto, response: DescriptorProto) -> Kind:
    if method.client_streaming:
        return Kind.UPLOAD
    fields = [each for each in response.field if each.name != "next_page_token"]
    if method.server_streaming:
        return Kind.DOWNLOAD if fields[0].name == "chunk" else Kind.WATCH
    is_rows = len(fields) == 1 and fields[0].label == FieldDescriptorProto.LABEL_REPEATED
    return Kind.ROWS if is_rows else Kind.ONCE


def _words(comment: str) -> str:
    return " ".join(line.strip() for line in comment.strip().split("\n")).strip()


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _word(field: FieldDescriptorProto) -> str:
    return _short(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
