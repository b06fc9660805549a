"""Helper processes end with the process that wants their work, and never before, in a container too."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

_AGENTS = "from milonga_agent.keys import die_with_parent as bind"
_HUBS = "from milonga_hub.jobs import die_with_parent as bind"
_COMPILERS = "from milonga_compiler.worker import _die_with_parent as bind"

# As each of them starts its helpers: the compiler's have a group of their own and are told over stdin.
_START = """
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, start_new_session=sys.argv[2] == "own group"
)
"""
_GROUPS = [(_AGENTS, ""), (_HUBS, ""), (_COMPILERS, "own group")]


@pytest.mark.parametrize(("bind", "group"), _GROUPS)
def test_a_helper_whose_parent_died_before_it_could_ask_ends_too(bind: str, group: str) -> None:
    orphan = f"""
{bind}
import os, time
parent = os.getppid()
print("started", flush=True)
while os.getppid() == parent:
    time.sleep(0.001)
bind()
print("went on")
"""
    # The parent ends as soon as its child has started, and the child asks after that.
    parent = _START + "sys.stdin.readline()"
    command = [sys.executable, "-c", parent, orphan, group]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.kill()
        assert process.stdout.read() == ""


@pytest.mark.parametrize(("bind", "group"), _GROUPS)
def test_a_helper_of_process_1_works(bind: str, group: str) -> None:
    command = [
        "unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", _START + "sys.exit(child.wait())",
        f"{bind}; bind(); print('worked')", group,
    ]  # fmt: skip
    if shutil.which("unshare") is None or subprocess.run([*command[:4], "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us start a process 1 of our own")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "worked\n"), done.stderr
