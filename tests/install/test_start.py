"""An upgrade that does not start gives way to the agent before it, and a good one is not given up."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from milonga_agent import supervision
from milonga_hub.install import web

SCRIPT = Path(web.__file__).with_name("install.sh").read_text(encoding="utf-8")


class Installation:
    """Two slots with programs that stand for agents, and what install.sh writes to start them."""

    def __init__(self, folder: Path) -> None:
        self.prefix, self.state = folder / "opt", folder / "state"
        self.state.mkdir()
        for slot in "ab":
            self.put(slot, f'echo "{slot} $@ ${{MILONGA_AGENT_SWITCHED_BACK:-}}"')
        (self.prefix / "current").symlink_to("b")
        self.run("write_start")

    def put(self, slot: str, program: str) -> None:
        path = self.prefix / slot / "bin" / "milonga-agent"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{program}\n")
        path.chmod(0o755)

    def run(self, function: str) -> str:
        """Run a function of install.sh."""
        found = "\n".join(
            match.group(0)
            for name in ("write_start", "running_slot")
            if (match := re.search(rf"^{name}\(\) \{{.*?^\}}$(?=\n\n)", SCRIPT, re.MULTILINE | re.DOTALL))
        )
        script = f"set -eu\n{found}\nPREFIX='{self.prefix}' STATE='{self.state}'\n{function}"
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.strip()

    def start(self) -> str:
        done = subprocess.run([self.prefix / "start", "run"], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    @property
    def trial(self) -> Path:
        return self.state / "trial-b"

    def release(self, slot: str) -> None:
        """Make a release current, as the agent does."""
        folder = self.state / "releases"
        (folder / slot / "milonga_agent").mkdir(parents=True)
        (folder / f"trial-{slot}").write_text("0\n")
        (folder / "current").unlink(missing_ok=True)
        (folder / "current").symlink_to(slot)


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def test_an_agent_that_is_not_on_trial_is_started_for_ever(installed: Installation) -> None:
    assert {installed.start() for _ in range(6)} == {"b run"}


def test_an_upgrade_that_fails_three_times_gives_way_and_is_named(installed: Installation) -> None:
    installed.put("b", "exit 1")
    installed.trial.write_text("0\n")
    assert [installed.start() for _ in range(5)] == ["", "", "", *[f"a run {installed.prefix}/b"] * 2]


def test_an_upgrade_that_works_is_kept(installed: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.put("b", 'echo "$MILONGA_AGENT_TRIAL"')
    installed.trial.write_text("0\n")
    monkeypatch.setenv("MILONGA_AGENT_TRIAL", installed.start())
    supervision.confirm_start()
    assert not installed.trial.exists() and "MILONGA_AGENT_TRIAL" not in os.environ
    installed.put("b", "echo b")
    assert {installed.start() for _ in range(6)} == {"b"}


def test_a_release_from_the_hub_lies_over_what_is_installed(installed: Installation) -> None:
    installed.put("b", 'echo "$MILONGA_AGENT_RELEASE $PYTHONPATH $MILONGA_AGENT_TRIAL"')
    installed.release("a")
    releases = installed.state / "releases"
    assert installed.start() == f"a {releases}/a {releases}/trial-a"


def test_a_release_that_fails_three_times_gives_way_to_the_agent_before_it(installed: Installation) -> None:
    releases = installed.state / "releases"
    installed.put(
        "b",
        'if [ "${MILONGA_AGENT_RELEASE:-}" = "$BROKEN" ]; then exit 1; fi; echo "${MILONGA_AGENT_RELEASE:-installed}"',
    )
    for slot, before in (("a", "installed"), ("b", "a")):
        installed.release(slot)
        script = f"BROKEN={slot} {installed.prefix}/start"
        starts = [subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False) for _ in range(5)]
        assert [done.stdout.strip() for done in starts] == ["", "", "", before, before]
        assert f"{releases}/{slot} does not start" in starts[-1].stderr
        # The hub's next one works, and so does every start of it.
        (releases / f"trial-{slot}").unlink()
        assert {installed.start() for _ in range(5)} == {slot}


@pytest.mark.parametrize("left", ["", "\n", "x\n"])
def test_a_count_that_a_power_cut_damaged_does_not_stop_the_agent(installed: Installation, left: str) -> None:
    installed.trial.write_text(left)
    assert installed.start() == "b run"


def test_a_slot_that_is_being_replaced_does_not_stop_the_agent(installed: Installation) -> None:
    (installed.prefix / "b" / "bin" / "milonga-agent").unlink()
    assert installed.start() == f"a run {installed.prefix}/b"


def test_the_next_upgrade_goes_where_nothing_runs(installed: Installation) -> None:
    assert installed.run("running_slot") == "b"
    installed.trial.write_text("4\n")
    assert installed.run("running_slot") == "a"


def test_people_are_told_of_an_upgrade_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert supervision.switched_back() == ""
    monkeypatch.setenv("MILONGA_AGENT_SWITCHED_BACK", "/opt/milonga-agent/b")
    assert "the agent in /opt/milonga-agent/b did not start" in supervision.switched_back()
