"""The documentation holds together, without the tool that makes the site: links, navigation, commands, and what is made from code."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from milonga_agent.cli import _parser as agent_parser
from milonga_compiler.cli import _parser as compiler_parser
from milonga_hub.cli.verbs import app
from milonga_hub.settings import Settings

from tools.site import boards, files, metrics, pages
from tools.site.reference import PAGES

ROOT = pages.ROOT
DOCS = ROOT / "docs"
WRITTEN = [
    *sorted(DOCS.rglob("*.md")),
    *(ROOT / name for name in pages.BESIDE.values()),
    *ROOT.glob("templates/*/*.md"),
]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_PROGRAMS = ("milonga", "milonga-agent", "milonga-compiler")
# Each stands in the document as it is typed, by itself or behind these.
_BEFORE = ("sudo", ".venv/bin/", "/opt/milonga-agent/current/bin/")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", WRITTEN, ids=_name)
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{target} does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in _anchors(found), f"{_name(found)} has no heading #{anchor}"


def _anchors(path: Path) -> set[str]:
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def _navigation() -> pages.Navigation:
    written: pages.Navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    return written


def test_every_page_is_in_the_navigation_once_and_every_entry_is_a_page() -> None:
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | {pages.DECISIONS}
    made = {*pages.BESIDE, *(f"reference/{name}" for name in PAGES)}
    shown = list(pages.named(pages.navigation(_navigation(), there)))
    assert len(shown) == len(set(shown))
    assert set(shown) == there | made


def test_a_page_that_the_navigation_does_not_name_is_shown_last() -> None:
    written: pages.Navigation = [{"Home": "index.md"}]
    assert pages.navigation(written, ["adr/0001-a.md", "new.md", "adr/index.md", "index.md"]) == [
        {"Home": "index.md"},
        {"Decisions": ["adr/index.md", "adr/0001-a.md"]},
        {"More": ["new.md"]},
    ]


def test_links_become_those_of_the_site_and_those_that_leave_it_become_paths() -> None:
    text = "[a](docs/git.md#x) [b](docs/adr) [`c`](templates/plugin) [d](fleet_configs) [e](https://example.com)\n\n```\n[f](no.md)\n```"
    assert pages.rewritten(text, "index.md").splitlines() == [
        "[a](git.md#x) [b](adr/index.md) `c` d (`fleet_configs`) [e](https://example.com)",
        "",
        "```",
        "[f](no.md)",
        "```",
    ]
    assert (
        pages.rewritten("[a](../security.md) [b](../../README.md)", "adr/x.md")
        == "[a](../security.md) [b](../index.md)"
    )


def test_lists_and_tables_stand_apart_from_the_text_before_them() -> None:
    assert pages.rewritten("text:\n- a\n  more\n- b\n\n| c |\n|---|\nend\n1. d", "x.md").splitlines() == [
        "text:", "", "- a", "  more", "- b", "", "| c |", "|---|", "end", "", "1. d",
    ]  # fmt: skip


def test_settings_files_and_boards_are_described_by_the_code() -> None:
    settings = files.settings()
    assert all(f"`MILONGA_{name.upper()}`" in settings for name in Settings.model_fields)
    written = files.written()
    assert (
        "| `spec.training.resolution_px` | whole number, at least 16, at most 640, a multiple of 8 | `32` |" in written
    )
    assert "| `spec.dataset` | text | none |" in written and "(needed)" in written
    known = boards.boards()
    names = [path.stem for path in (ROOT / "fleet_configs" / "device_types").glob("*.yaml")]
    assert names and all(f"`{name}`" in known for name in names)


def test_every_metric_of_the_code_is_explained() -> None:
    known = metrics.known()
    explained = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert {one.kind for one in known} == {"counter", "gauge", "histogram"}
    assert [one.name for one in known if f"`{one.name}`" not in explained] == []
    assert metrics.Metric("milonga_devices", "gauge", ("device_type", "state"), "Devices.") in known
    assert next(one.labels for one in known if one.name == "milonga_served_latency_seconds") == (
        "project",
        "model_version",
    )


def _commands() -> Iterator[tuple[str, str]]:
    """Yield each line of a documented shell block that calls a program of ours, with the file it is in."""
    for path in WRITTEN:
        for _, language, body in _FENCE.findall(path.read_text(encoding="utf-8")):
            for line in body.replace("\\\n", " ").splitlines() if language in ("sh", "") else ():
                command = line.partition("  #")[0].strip()
                for before in _BEFORE:
                    command = command.removeprefix(before).strip()
                if command.split(" ")[0] in _PROGRAMS:
                    yield _name(path), command


def test_every_documented_command_and_option_exists() -> None:
    found = list(_commands())
    assert len(found) > 80
    wrong = [f"{path}: {command}: {why}" for path, command in found if (why := _unknown(command))]
    assert not wrong, "\n".join(wrong)


def test_what_does_not_exist_is_noticed() -> None:
    assert _unknown("milonga --hub HUB:8443 devices show pi --json") == ""
    assert _unknown("milonga devices shwo pi") == "there is no verb shwo"
    assert _unknown("milonga up --hots 0.0.0.0") == "there is no option --hots"
    assert _unknown("milonga-compiler build model.onnx --traget x") == "there is no option --traget"
    assert _unknown("milonga-agent run --hub HUB:8443 --join-toke T") == "there is no option --join-toke"


def _unknown(command: str) -> str:
    """Return what is not known of a command; empty where all is."""
    program, *words = shlex.split(command, comments=True)
    options, names = _top(program)
    before = ""
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("-") and len(option) > 1 and not option[1].isdigit():
            if option not in options and option not in ("--help", "-h"):
                return f"there is no option {option}"
        elif word in names:
            options, names = options | _options(names[word]), _names(names[word])
        elif names and not before.startswith("-"):
            return f"there is no verb {word}"
        before = word
    return ""


@cache
def _top(program: str) -> tuple[set[str], dict[str, Any]]:
    parser = {"milonga-agent": agent_parser, "milonga-compiler": compiler_parser}.get(program)
    top = parser() if parser else typer.main.get_command(app)
    return _options(top), _names(top)


def _options(node: Any) -> set[str]:
    if isinstance(node, argparse.ArgumentParser):
        # These two hand their arguments on to parsers of their own.
        if node.prog.endswith((" build", " tune")):
            return set(re.findall(r"--[a-z-]+", (ROOT / _OWN[node.prog.split()[1]]).read_text(encoding="utf-8")))
        return {name for action in node._actions for name in action.option_strings}
    return {name for one in node.params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}


_OWN = {
    "build": "compiler/milonga_compiler/__main__.py",
    "tune": "compiler/milonga_compiler/tune_command.py",
}


def _names(node: Any) -> dict[str, Any]:
    if isinstance(node, argparse.ArgumentParser):
        groups = [action for action in node._actions if isinstance(action, argparse._SubParsersAction)]
        return {name: child for group in groups for name, child in group.choices.items()}
    return dict(getattr(node, "commands", {}))
