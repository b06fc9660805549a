"""People see which engines they can use, and what adds the others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from milonga_compiler import cli
from milonga_compiler.backends import backend
from milonga_compiler.engines import ENGINES, BuildSite
from milonga_compiler.environments import environment, interpreter, requirements
from milonga_compiler.errors import EngineMissing
from milonga_compiler.parity import Labelled

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No environments but those that the test makes."""
    monkeypatch.setenv("MILONGA_ENGINES_FOLDER", str(tmp_path))
    for name in ENGINES:
        monkeypatch.delenv(f"MILONGA_ENGINE_{name.upper()}_PYTHON", raising=False)
    return tmp_path


def test_all_engines_are_listed_with_what_they_offer_and_need(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["engines", "--json"]) == 0
    listed = {one["engine"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(ENGINES)
    for name, one in listed.items():
        assert not one["usable"] and name in one["add"]
        assert one["precisions"] == [str(precision) for precision in ENGINES[name].precisions]
    assert cli.main(["engines"]) == 0
    shown = capsys.readouterr().out
    assert "missing; run: milonga-compiler engines add litert" in shown and "not verified on hardware" in shown


def test_an_engine_that_is_built_on_devices_says_so_where_it_is_missing(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = (name for name, engine in ENGINES.items() if engine.build_site is BuildSite.DEVICE)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineMissing, match="on the device that runs them"):
        interpreter(name)


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_each_engine_has_an_extra_that_brings_its_modules_and_a_row_in_the_page(name: str) -> None:
    wanted = " ".join(requirements(name)).replace("-", "_")
    for modules in ENGINES[name].modules:
        brought = {"tvm": "apache_tvm", "tvm_ffi": "apache_tvm_ffi"}.get(modules, modules.split("|")[0])
        assert re.search(rf"\b{brought}\b", wanted), f"{name} needs {modules}; pip would install {wanted}"
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    assert row.split("|")[2].strip() == ", ".join(map(str, ENGINES[name].precisions))


def test_an_environment_that_was_not_finished_is_not_used(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    python = environment("ncnn") / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(EngineMissing, match="engines add ncnn"):
        interpreter("ncnn")


def test_an_environment_that_cannot_be_made_is_explained(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert cli.main(["engines", "add", "reference"]) == 2
    assert "reference could not be added" in capsys.readouterr().err
    assert not (environment("reference") / ".finished").exists()
    (alone / "file").touch()
    monkeypatch.setenv("MILONGA_ENGINES_FOLDER", str(alone / "file"))
    assert cli.main(["engines", "add", "reference"]) == 2
    assert str(alone / "file") in capsys.readouterr().err


def test_adding_says_where_the_environment_goes_what_it_takes_and_how_it_is_removed(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    def made(engine: str) -> Path:
        place = environment(engine)
        (place / "bin").mkdir(parents=True)
        (place / ".finished").write_bytes(bytes(200_000_000))
        return place

    monkeypatch.setattr(cli, "add", made)
    assert cli.main(["engines", "add", "ncnn"]) == 0
    begun, ended = capsys.readouterr().out.splitlines()
    assert begun.startswith(f"ncnn gets an environment of its own: {environment('ncnn')} (")
    assert ended == f"ncnn can be used: it takes 0.2 GB; to remove it: rm -r {environment('ncnn')}"
    assert cli.main(["engines", "add", "ncnn"]) == 0
    assert capsys.readouterr().out == f"ncnn can be used already: {interpreter('ncnn')}\n"


def test_adding_that_is_stopped_says_how_to_go_on(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(engine: str) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(cli, "add", stopped)
    assert cli.main(["engines", "add", "litert"]) == 130
    assert "milonga-compiler engines add litert" in capsys.readouterr().err


@pytest.mark.slow
def test_an_engine_runs_in_the_environment_that_was_made_for_it(
    alone: Path, network: tuple[Path, Labelled], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["engines", "add", "reference"]) == 0, capsys.readouterr().err
    assert interpreter("reference") == str(alone / "reference" / "bin" / "python")
    logits = backend("reference").run(network[0], network[1].pictures[:4], 1)
    assert np.abs(logits - network[1].logits[:4]).max() < 1e-3
