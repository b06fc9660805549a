"""Settings, and the files that people write, as the code that reads them describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
# What a column or a message can hold is no limit that anybody meets.
_STORED = 2**31 - 1
_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
    "minLength": "letters, at least",
    "maxLength": "letters, at most",
}


def settings() -> str:
    """Return the page of what a hub can be told from outside."""
    from milonga_hub.settings import Settings

    rows = [
        f"| `MILONGA_{name.upper()}` | {_value(field.default)} | {_cell(field.description or '')} |"
        for name, field in Settings.model_fields.items()
    ]
    told = (
        "Each is an environment variable, and most are flags of `milonga up` too, without the prefix: `--http-port`."
        " Flags win. Lists are written as JSON."
    )
    return "\n".join(
        ["# Settings of the hub", "", told, "", "| variable | default | what |", "|---|---|---|", *rows, ""]
    )


def written() -> str:
    """Return the page of all kinds of files that `milonga apply` and other verbs read."""
    from milonga_hub.alerts.models import CHANNEL_FILE, RULE_FILE
    from milonga_hub.devices.known import FILE as DEVICE_TYPE_FILE
    from milonga_hub.projects.models import PROJECT_FILE
    from milonga_hub.quotas.models import QUOTAS_FILE
    from milonga_hub.simulation.spec import FILE as SIMULATION_FILE

    parts = [
        "# Files that people write",
        "YAML with `kind`, `name` and `spec`. Unknown keys are errors that name the line. `milonga schema KIND` prints the JSON"
        " Schema of a kind, for editors.",
    ]
    for kind in (PROJECT_FILE, RULE_FILE, CHANNEL_FILE, DEVICE_TYPE_FILE, SIMULATION_FILE, QUOTAS_FILE):
        schema = kind.schema()
        parts += [f"## {kind.name}", f"Examples with words to each key: `{kind.examples}`."]
        rows = [f"| `{path}` | {told} | {default} |" for path, told, default in _keys(schema, schema["$defs"])]
        parts.append("\n".join(["| key | value | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _keys(schema: Schema, definitions: Schema) -> Iterator[tuple[str, str, str]]:
    """Yield each key of the spec with its dotted path, what it may hold, and what holds where it is left out."""
    yield from _below(schema["properties"]["spec"], definitions, "spec")


def _below(schema: Schema, definitions: Schema, path: str) -> Iterator[tuple[str, str, str]]:
    required = set(schema.get("required", ()))
    for name, one in schema.get("properties", {}).items():
        found, place = _resolved(one, definitions), f"{path}.{name}"
        inner = found
        if found.get("type") == "array":
            inner, place = _resolved(found["items"], definitions), f"{place}[]"
        if inner.get("properties"):
            yield from _below(inner, definitions, place)
        else:
            yield place, _told(found, definitions), "(needed)" if name in required else _value(one.get("default"))


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """Return the schema that is meant, of several the one that is not null."""
    for part in schema.get("anyOf", schema.get("allOf", ())):
        if part.get("type") != "null":
            return _resolved(part, definitions)
    if "$ref" in schema:
        return _resolved(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return schema


def _told(schema: Schema, definitions: Schema) -> str:
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = {"integer": "whole number", "boolean": "true or false", "array": "list", "object": "keys and values"}
    named = str(schema.get("type", "text"))
    words = [kind.get(named, named)]
    if schema.get("type") == "array":
        words.append(f"of {_told(_resolved(schema['items'], definitions), definitions)}")
    bounds = [f"{said} {schema[key]:g}" for key, said in _BOUNDS.items() if key in schema and schema[key] < _STORED]
    text = " ".join(words) + (f", {', '.join(bounds)}" if bounds else "")
    return text.replace("string", "text")


def _value(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{_cell(str(value))}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
