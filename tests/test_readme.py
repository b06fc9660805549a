"""What README shows exists: every command, option, file and make target. (The end-to-end tests run the main ones.)"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
_LINES = [line.partition("  #")[0].strip() for block in _BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in _LINES if line.startswith(("milonga ", "milonga-agent "))]
MODULES = {"milonga": "milonga_hub.cli", "milonga-agent": "milonga_agent"}


def _help(command: str) -> str:
    program, *words = command.split()
    verbs = [word for word in words[:2] if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]
    # The second word may be an argument of a verb that stands alone.
    for tried in (verbs, verbs[:1]):
        done = subprocess.run(
            [sys.executable, "-m", MODULES[program], *tried, "--help"],
            capture_output=True, text=True, check=False, env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        if done.returncode == 0:
            return done.stdout
    raise AssertionError(f"{command!r} is not understood: {done.stderr}")


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_exists(command: str) -> None:
    shown = _help(command)
    for option in re.findall(r"\s(--?[a-z][a-z-]*)", command):
        assert option in shown, f"{option} is not an option of {command!r}"


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"fleet_configs/\S+\.yaml", README) + re.findall(r"\]\(([^)h][^)]*)\)", README)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_make_target_exists_and_is_listed_by_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z]+)", README)):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


def test_no_page_holds_what_an_unfinished_merge_leaves() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    marks = ("<<<<<<< ", ">>>>>>> ")
    left = [page.name for page in pages if any(line.startswith(marks) for line in page.read_text("utf-8").splitlines())]
    assert not left
