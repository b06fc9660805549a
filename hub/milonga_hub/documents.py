"""Documents that people write: YAML with kind, name and spec, and errors that name the line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from milonga_hub.errors import InvalidInput, complaint

_TOP = ("kind", "name", "spec")
_MOST_VALUES = 20_000


S = TypeVar("S", bound=BaseModel)


class Spec(BaseModel):
    """What a document may say; unknown keys are errors."""

    # Strict: YAML's `yes` is no number of epochs. Infinity has no JSON, so it could be stored but never read again.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Kind(Generic[S]):
    """One kind of document: what its `kind` says, what its spec may hold, and the folder with examples."""

    name: str
    spec: type[S]
    examples: str

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a whole document, for editors and for checks without a hub."""
        spec = self.spec.model_json_schema()
        definitions = spec.pop("$defs", {})
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.name,
            "type": "object",
            "additionalProperties": False,
            "required": ["kind", "name", "spec"],
            "properties": {"kind": {"const": self.name}, "name": {"type": "string"}, "spec": spec},
            "$defs": definitions,
        }

    def load(self, path: Path) -> tuple[str, S]:
        """Return name and spec of a file. Raises InvalidInput listing every error with its line, and for several documents."""
        return self.parse(_text(path, str(path)), str(path))

    def parse(self, text: str, source: str) -> tuple[str, S]:
        """Return name and spec of a text; `source` names it in errors."""
        return self.of(_alone(_all(text, source)))

    def of(self, read: Document) -> tuple[str, S]:
        """Return name and spec of a document. Raises InvalidInput listing every error with its line."""
        node, document, source = read.node, read.values, read.source
        if not isinstance(document, dict):
            raise InvalidInput(
                f"{source}: a {self.name.lower()} file has the keys kind, name and spec; copy one of {self.examples}"
            )
        problems = list(_flaws(document, node, source, self.name))
        spec = None
        try:
            spec = self.spec.model_validate(document.get("spec") or {})
        except ValidationError as error:
            problems += [_explain(source, node, detail, self.spec) for detail in error.errors()]
        if problems or spec is None:
            raise InvalidInput("\n".join(problems))
        return document["name"], spec


@dataclass(frozen=True)
class Document:
    """One document of a file: as nodes, which know their lines, as values, and the file's name for people."""

    node: Any
    values: Any
    source: str

    @property
    def kind(self) -> str:
        """Return the kind that it says it is, "" where it says none."""
        return str(self.values.get("kind") or "") if isinstance(self.values, dict) else ""

    def place_of(self, field: str) -> str:
        """Return source:line of a field that the hub names, such as spec.limits[0].latency_ms."""
        return _at(
            self.source, self.node, [int(one) if one.isdigit() else one for one in re.findall(r"[^.\[\]]+", field)]
        )


def documents_of(path: Path, source: str = "") -> list[Document]:
    """Return all documents of a file, `source` for people. Raises InvalidInput for what is no YAML."""
    return _all(_text(path, source or str(path)), source or str(path))


def _text(path: Path, source: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {source}: {error}") from error


def _alone(found: list[Document]) -> Document:
    if len(found) > 1:
        place = f"{found[1].source}:{found[1].node.start_mark.line + 1}"
        raise InvalidInput(f"{place}: a second document begins here; put each into a file of its own")
    return found[0]


def _all(text: str, source: str) -> list[Document]:
    """Return all documents that are not empty, or one that is."""
    try:
        return [one for one in _composed(text, source) if one.values is not None] or [Document(None, None, source)]
    except (ValueError, RecursionError) as error:
        # A date with a 13th month, or brackets thousands deep.
        raise InvalidInput(f"{source}: not YAML that can be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InvalidInput(f"{source}{line}: not YAML: {getattr(error, 'problem', error)}") from error


def _composed(text: str, source: str) -> Iterator[Document]:
    loader = yaml.SafeLoader(text)
    while loader.check_node():
        node = loader.get_node()
        _demand_bounded(node, source)
        yield Document(node, loader.construct_document(node), source)


def _demand_bounded(node: Any, source: str) -> None:
    """Refuse a few lines of aliases that stand for millions of values, or for themselves."""
    waiting, count = [node], 0
    while waiting:
        one = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise InvalidInput(
                f"{source}: it has more than {_MOST_VALUES:,} values, or an alias that stands for itself; write values out"
            )
        if isinstance(one, yaml.SequenceNode):
            waiting += one.value
        elif isinstance(one, yaml.MappingNode):
            waiting += [part for pair in one.value for part in pair]


def _flaws(document: dict[Any, Any], node: Any, source: str, kind: str) -> Iterator[str]:
    """Yield what is wrong with anything but the spec."""
    yield from (
        f"{_at(source, node, (key,))}: {_unknown(key, _TOP, 'the file')}" for key in document if key not in _TOP
    )
    yield from (f"{source}:{line}: {key} stands twice; keep one of them" for line, key in _repeated(node))
    if document.get("kind") != kind:
        yield f"{_at(source, node, ('kind',))}: kind must be {kind}, not {document.get('kind')!r}"
    if not isinstance(document.get("name"), str):
        yield f"{_at(source, node, ('name',))}: name must be given, as text"


def _explain(source: str, node: Any, detail: Any, spec: type[BaseModel]) -> str:
    where = ("spec", *detail["loc"])
    dotted = ".".join(str(part) for part in where[:-1])
    if detail["type"] == "extra_forbidden":
        message = _unknown(str(where[-1]), _known_keys(spec, detail["loc"][:-1]), dotted)
    elif detail["type"] == "missing":
        message = f"{'.'.join(str(part) for part in where)} must be given"
    else:
        message = f"{'.'.join(str(part) for part in where)}: {complaint(detail)}"
    return f"{_at(source, node, where)}: {message}"


def _repeated(node: Any, path: str = "") -> Iterator[tuple[int, str]]:
    """Yield line and path of every key that stands a second time in its mapping; YAML itself would take the last."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated(item, f"{path}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            place = f"{path}.{key.value}" if path else str(key.value)
            if key.value in seen:
                yield key.start_mark.line + 1, place
            seen.add(key.value)
            yield from _repeated(value, place)


def _unknown(key: Any, known: Any, place: str) -> str:
    near = difflib.get_close_matches(str(key), list(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    shown = key if str(key).isprintable() else str(key).encode("unicode_escape").decode()
    return f'unknown key "{shown}" in {place}; {hint}'


def _known_keys(spec: type[BaseModel], path: Any) -> list[str]:
    """Return the keys that may stand at a path inside the spec."""
    model: Any = spec
    for part in path:
        if get_origin(model) is dict:
            model = get_args(model)[1]  # A key of the user's own.
        elif isinstance(part, str):
            model = model.model_fields[part].annotation
            if get_origin(model) is dict:
                continue
            inner = [one for one in get_args(model) if isinstance(one, type) and issubclass(one, BaseModel)]
            model = inner[0] if inner else model
    return list(model.model_fields)


def _at(source: str, node: Any, path: Any) -> str:
    """Return source:line of the deepest part of the path that the document has."""
    line = node.start_mark.line
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return f"{source}:{line + 1}"
