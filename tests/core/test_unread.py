"""Commands whose output nobody reads to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import milonga.unread
import milonga_compiler.unread
import pytest


@pytest.mark.parametrize(
    "command",
    [
        "from milonga_compiler.cli import main; main(['engines', '--json'])",
        "from milonga_agent.cli import main; main(['--help'])",
        "from milonga_hub.cli import main; main(['types', 'known'])",
    ],
)
def test_a_command_whose_reader_has_gone_ends_without_a_word(command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([sys.executable, "-c", command], stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert done.stderr == ""


def test_it_ends_as_shells_see_programs_that_sigpipe_ended() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    said = "import sys; from milonga_compiler.cli import main; sys.exit(main(['engines', '--json']))"
    try:
        assert subprocess.run([sys.executable, "-c", said], stdout=writer).returncode == 141
    finally:
        os.close(writer)


def test_the_compiler_which_needs_nothing_of_ours_has_the_same_code() -> None:
    texts = {Path(str(one.__file__)).read_text(encoding="utf-8") for one in (milonga.unread, milonga_compiler.unread)}
    assert len(texts) == 1
