"""The pages of docs/api: what each service and method is for, from the protocol's words, with examples that tests run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from milonga_hub.accounts.rules_access import GRPC
from milonga_hub.accounts.rules_projects import whose
from milonga_hub.accounts.rules_scopes import scope_of

from tools.codegen.describe import Kind, Message, Method, Service
from tools.codegen.services import SYNC, returned, signature

# One file for each service: a program whose cells begin with "# %%" and the methods that they are about.
EXAMPLES = Path(__file__).parents[2] / "docs" / "api" / "examples"
_CELL = re.compile(r"^# %% (.+)\n", re.MULTILINE)
_MADE = "<!-- Made from the protocol and docs/api/examples by `make protos`: change it there. -->"
_REPEATS = {
    "NO_SIDE_EFFECTS": "It only looks, and is tried again where the hub does not answer.",
    "IDEMPOTENT": "It may be repeated, and is tried again where the hub does not answer.",
    "": "",
}
_KINDS = {
    Kind.ONCE: "",
    Kind.ROWS: "An iterator over all rows; pages are asked for as you come to them.",
    Kind.WATCH: "An iterator that goes on where the stream breaks.",
    Kind.DOWNLOAD: "An iterator over the chunks of a file.",
    Kind.UPLOAD: "`content` is a path, an open file, bytes, or chunks.",
}


def pages(services: Sequence[Service]) -> dict[str, str]:
    """Return the pages by the names of their files."""
    return {f"{service.attribute}.md": _page(service) for service in services}


def cells(service: Service) -> tuple[str, dict[str, str]]:
    """Return how the service's example begins, and each cell by the methods that it is about: "GetRun, ListRuns"."""
    text = (EXAMPLES / f"{service.attribute}.py").read_text(encoding="utf-8")
    beginning, *parts = _CELL.split(text)
    return beginning.strip(), {title: code.strip() for title, code in zip(parts[::2], parts[1::2], strict=True)}


def _page(service: Service) -> str:
    beginning, found = cells(service)
    parts = [
        f"# {service.class_name}",
        _MADE,
        service.comment,
        f"In the protocol this is `milonga.v1.{service.name}`; in [the clients](index.md) `hub.{service.attribute}`."
        " Methods of `AsyncClient` are the same with `await` and `async for`. The examples begin with:",
        f"```python\n{beginning}\n```",
        "| method | what it is for |\n|---|---|\n"
        + "\n".join(
            f"| [{each.python_name}](#{each.python_name}) | {_cell(each.comment)} |" for each in service.methods
        ),
    ]
    for method in service.methods:
        parts += _method(method, found)
    parts.append("## Messages")
    for message in service.messages:
        parts += _message(message)
    return "\n\n".join(part for part in parts if part) + "\n"


def _method(method: Method, found: Mapping[str, str]) -> Iterator[str]:
    yield f"## {method.python_name}"
    yield method.comment
    yield f"```python\n{method.python_name}({', '.join(signature(method))}) -> {returned(method, SYNC)}\n```"
    access = GRPC[method.path]
    needs = "Everybody may call it" if access.least is None else f"Needs the role {access.least.value.lower()}"
    needs += _of_keys(method) if access.least is not None else ""
    audited = ". The audit log says who called it" if access.changes else ""
    yield " ".join(words for words in (_KINDS[method.kind], f"{needs}{audited}.", _REPEATS[method.repeats]) if words)
    told = [(each.name, each.comment) for each in method.parameters if each.comment]
    if told:
        yield "\n".join(f"- `{name}`: {comment}" for name, comment in told)
    for title, code in found.items():
        if method.name in re.split(r",\s*", title):
            yield f"```python\n{code}\n```"


def _of_keys(method: Method) -> str:
    """Return what API keys with limits need."""
    scope = scope_of(method.path, GRPC[method.path])
    asked = f"; a key with scopes needs `{scope}`" if scope else "; a key needs no scope for it"
    return asked if whose(method.path) else f"{asked}, and a key of projects is refused"


def _message(message: Message) -> Iterator[str]:
    yield f"### {message.name}"
    yield message.comment
    head = "| value | what |\n|---|---|" if message.is_enum else "| field | type | what |\n|---|---|---|"
    rows = [
        f"| `{each.name}` | {_cell(each.comment)} |" if message.is_enum
        else f"| `{each.name}` | {_cell(each.type)} | {_cell(each.comment)} |"
        for each in message.fields
    ]  # fmt: skip
    yield "\n".join([head, *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
