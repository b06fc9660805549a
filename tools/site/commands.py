"""The command lines as their own parsers explain them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer

_WIDTH = 100
_NARROW = {"COLUMNS": str(_WIDTH)}
Texts = Iterable[tuple[str, str]]


def milonga() -> str:
    """Return the page of `milonga`."""
    from milonga_hub.cli.verbs import app

    command = typer.main.get_command(app)
    texts = _click(command, typer.Context(command, info_name="milonga"), [])
    return _page(
        "milonga", "The command line of the hub and of its users. Each verb says the same with `--help`.", texts
    )


def milonga_agent() -> str:
    """Return the page of `milonga-agent`."""
    from milonga_agent.cli import _parser

    return _page("milonga-agent", "The command line of a device.", _argparse(_parser()))


def milonga_compiler() -> str:
    """Return the page of `milonga-compiler`."""
    from milonga_compiler.cli import _parser

    texts = dict(_argparse(_parser()))
    # These two hand their arguments on, and explain themselves.
    texts.update((name, _said(name)) for name in ("milonga-compiler build", "milonga-compiler tune"))
    return _page("milonga-compiler", "The command line that builds networks by themselves.", texts.items())


def _said(name: str) -> str:
    verb = name.split()[1]
    code = "import sys; from milonga_compiler.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, verb, "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **_NARROW}).stdout


def _page(name: str, words: str, texts: Texts) -> str:
    parts = [f"# {name}", words]
    for title, text in texts:
        if title != name:
            parts.append(f"## {title}")
        parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _click(command: Any, context: typer.Context, path: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each command with its help, in the order of the help above it; hidden ones are left out."""
    context.terminal_width = context.max_content_width = _WIDTH
    yield " ".join(["milonga", *path]), command.get_help(context)
    names = command.list_commands(context) if hasattr(command, "list_commands") else ()
    for name in names:
        child = command.get_command(context, name)
        if child is not None and not child.hidden:
            yield from _click(child, typer.Context(child, info_name=name, parent=context), [*path, name])


def _argparse(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    os.environ.update(_NARROW)
    yield parser.prog, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in dict.fromkeys(action.choices.values()):
                yield from _argparse(child)
