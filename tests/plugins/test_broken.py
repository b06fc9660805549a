"""A plug-in that is broken is named, left out, and stops nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import milonga.plugins
import milonga_agent.plugged
import milonga_compiler.plugins
import pytest
from milonga.plugins import PluginBroken, found, listed
from milonga_agent import doctor as agent_doctor
from milonga_agent import inventory
from milonga_agent.errors import EngineMissing
from milonga_agent.plugged import Engine, plugged
from milonga_agent.runtimes import kind_of
from milonga_compiler import engines
from milonga_hub import doctor
from milonga_hub import plugged as on_the_hub
from milonga_hub.cli.verbs import app
from milonga_hub.learning import spaces
from milonga_hub.projects import rules
from milonga_hub.settings import Settings
from typer.testing import CliRunner

GROUP = "milonga.tried"
STEPS = "milonga.preprocessing"


def _install(folder: Path, name: str, code: str, *points: str, group: str = GROUP) -> None:
    """Lay a distribution into the folder, as pip would: a module, and what it says of itself."""
    (folder / f"{name}.py").write_text(code)
    described = folder / f"{name}-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("\n".join([f"[{group}]", *points]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is looked into as the environment's own is."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_what_does_not_load_is_left_out_with_its_reason_and_the_others_are_taken(folder: Path) -> None:
    _install(folder, "tried_good", "VALUE = 7", "good = tried_good:VALUE")
    _install(folder, "tried_raising", "raise RuntimeError('no licence')", "raising = tried_raising:VALUE")
    _install(folder, "tried_leaving", "raise SystemExit(3)", "leaving = tried_leaving:VALUE")
    _install(folder, "tried_empty", "", "empty = tried_empty:VALUE")
    _install(folder, "tried_text", "VALUE = 'seven'", "text = tried_text:VALUE")
    there = found(GROUP, int, ())
    assert there.values == {"good": 7}
    problems = {one.name: one.problem for one in there.plugins}
    assert problems["good"] == ""
    assert problems["raising"] == "tried_raising:VALUE cannot be loaded: RuntimeError: no licence"
    assert "SystemExit: 3" in problems["leaving"]
    assert "no attribute 'VALUE'" in problems["empty"]
    assert problems["text"] == "tried_text:VALUE is no builtins.int"
    raising = next(one for one in listed(GROUP, ()) if one.name == "raising")
    with pytest.raises(PluginBroken, match=r"raising of tried_raising: .*no licence"):
        raising.load()


def test_names_that_are_taken_twice_or_none_are_refused_without_loading_them(folder: Path) -> None:
    _install(folder, "tried_taking", "raise AssertionError", "onnxruntime = tried_taking:VALUE")
    _install(folder, "tried_one", "raise AssertionError", "same = tried_one:VALUE")
    _install(folder, "tried_two", "raise AssertionError", "same = tried_two:VALUE")
    _install(folder, "tried_odd", "raise AssertionError", "../up = tried_odd:VALUE")
    problems = {one.distribution: one.problem for one in found(GROUP, int, ["onnxruntime"]).plugins}
    assert problems["tried_taking"] == "the name is taken by Milonga's own; it needs another"
    assert problems["tried_one"] == "tried_two brings the same name; uninstall one of them"
    assert problems["tried_two"] == "tried_one brings the same name; uninstall one of them"
    assert problems["tried_odd"].startswith("it needs a name of a-z")


def test_a_plug_in_that_ends_the_process_costs_the_hub_nothing_and_those_behind_it_are_tried(folder: Path) -> None:
    killing = "import os; os._exit(9)"
    _install(folder, "tried_killing", killing, "a_killer = tried_killing:STEP", group=STEPS)
    _install(folder, "tried_step", "def STEP(image): return image", "b_step = tried_step:STEP", group=STEPS)
    checks = [check for check in doctor.examine(Settings(data_dir=folder / "none")) if check.name == "plug-in"]
    assert [check.result for check in checks] == [doctor.Result.WARNING, doctor.Result.OK]
    assert "tried_killing 1.0 is left out: the process that loaded it ended with exit code 9" in checks[0].found
    assert "a_killer" in checks[0].found and "b_step" in checks[1].found
    assert "uninstall tried_killing" in checks[0].next_step


def test_plug_ins_are_listed_with_what_is_wrong_with_them(folder: Path) -> None:
    _install(folder, "tried_step", "def STEP(image): return image", "step = tried_step:STEP", group=STEPS)
    _install(folder, "tried_text", "STEP = 'no function'", "text = tried_text:STEP", group=STEPS)
    _install(folder, "tried_run", "", "run = tried_run:ENGINE", group="milonga.runtimes")
    told_as_json = CliRunner().invoke(app, ["plugins", "list", "--json"])
    problems = {one["name"]: (one["group"], one["problem"]) for one in json.loads(told_as_json.stdout)["plugins"]}
    assert problems["run"] == ("milonga.runtimes", "")  # A device tries it.
    assert problems["step"] == (STEPS, "")
    assert problems["text"] == (STEPS, "tried_text:STEP of tried_text is no function that takes a picture")
    told = CliRunner().invoke(app, ["plugins", "list"]).stdout
    assert "for devices" in told and "text of tried_text is left out" in told


def test_an_agent_s_doctor_names_a_runtime_that_does_not_load_and_the_agent_offers_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = (
        "from milonga_agent.plugged import Engine\nENGINE = Engine('tried_runtime', ('fp32',), 'tried_gone:Runtime')"
    )
    _install(folder, "tried_runtime", described, "tried = tried_runtime:ENGINE", group="milonga.runtimes")
    monkeypatch.setattr(inventory, "plugged", plugged.__wrapped__)
    assert inventory.plugged_engines().values == {"tried": Engine("tried_runtime", ("fp32",), "tried_gone:Runtime")}
    assert inventory.engine_version("tried") == "1.0"
    with pytest.raises(EngineMissing, match="tried_gone:Runtime cannot be loaded"):
        kind_of("tried")
    (check,) = [each for each in agent_doctor.examine(folder) if each.name == "plug-in"]
    assert check.result == agent_doctor.WARNING and "No module named 'tried_gone'" in check.found


def test_the_compiler_looks_for_plug_ins_as_all_others_do() -> None:
    """It depends on nothing of ours, and so it has the file too."""
    texts = [Path(str(module.__file__)).read_text() for module in (milonga.plugins, milonga_compiler.plugins)]
    assert texts[0] == texts[1]


def test_the_groups_are_named_alike_wherever_they_are_read() -> None:
    assert rules.PLUGGED_SPACES == spaces.GROUP
    assert on_the_hub.BACKENDS == engines.GROUP
    assert on_the_hub.RUNTIMES == milonga_agent.plugged.GROUP
    assert set(engines.own()) == set(inventory.ENGINES)
