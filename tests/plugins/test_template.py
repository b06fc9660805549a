"""The template of a plug-in is a package that installs, and each of its parts does its work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from milonga.v1 import projects_pb2
from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.runtimes import load
from milonga_agent.served import Served
from milonga_compiler.errors import UnknownTarget
from milonga_compiler.target import Target
from milonga_hub.errors import InvalidInput
from milonga_hub.projects import rules
from milonga_hub.projects.models import BuildSpec, ProjectSpec, TrainingSpec
from milonga_hub.runs.prepare import prepare
from milonga_hub.tasks import Task

from tests.agent.bundles import example
from tests.runs.boards import Hub

ROOT = Path(__file__).parent.parent.parent
TEMPLATE = ROOT / "templates" / "plugin"
_INSTALL = "-m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --no-compile"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the template is installed into, from a copy: building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(TEMPLATE, folder / "source")
    command = [sys.executable, *_INSTALL.split(), "--target", str(folder / "there"), str(folder / "source")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "there"


@pytest.fixture(scope="module")
def used(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a process that has the plug-in told of using it."""
    command = [sys.executable, "-m", "tests.plugins.used", str(tmp_path_factory.mktemp("used"))]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_network_is_built_by_the_back_end_and_proved(used: dict[str, Any]) -> None:
    assert (used["engines"][-1], used["built"]) == ("packed", "model.onnx.gz")


def test_the_back_end_runs_also_in_an_environment_that_lacks_the_plug_in(used: dict[str, Any]) -> None:
    assert used["error_elsewhere"] < 1e-3


def test_a_device_offers_the_engine_and_its_runtime_gives_right_answers(used: dict[str, Any]) -> None:
    assert used["offered"]["packed"] == ["fp32"]
    assert used["right"] >= 18


def test_a_device_takes_the_step_that_the_manifest_names(used: dict[str, Any]) -> None:
    assert used["right_in_tinted_light"] >= 18


def test_a_supernet_learns_in_the_space_from_pictures_that_took_the_step(used: dict[str, Any]) -> None:
    assert (used["learned"]["space"], used["learned"]["largest"]) == ("plain", "16 px | 3 x 1.0 | 3 x 1.0")
    assert used["learned"]["input"]["preprocessing"] == ["grey_world"]


def test_a_project_may_name_what_the_plug_in_brings(used: dict[str, Any]) -> None:
    assert used["accepted"] == {"spaces": [*rules.SPACES[Task.CLASSIFICATION], "plain"], "steps": ["grey_world"]}


def test_all_that_is_installed_loads(used: dict[str, Any]) -> None:
    assert used["problems"] == {
        "milonga.spaces plain": "",
        "milonga.backends packed": "",
        "milonga.runtimes packed": "",
        "milonga.preprocessing grey_world": "",
    }


def test_without_the_plug_in_each_of_its_names_is_unknown_and_the_message_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UnknownTarget, match="packed/fp32; there are: litert/fp32"):
        Target.parse("packed/fp32")
    with pytest.raises(EngineMissing, match="no engine 'packed'; it knows litert"):
        load("packed", tmp_path / "model.onnx.gz", 1)
    with pytest.raises(InvalidInput, match="no space 'plain'; for classification take mbv3"):
        rules.check("p", ProjectSpec(dataset="d", training=TrainingSpec(space="plain")))
    with pytest.raises(InvalidInput, match="no step 'grey_world'; no plug-in of this hub brings any"):
        rules.check("p", ProjectSpec(dataset="d", training=TrainingSpec(preprocessing=["grey_world"])))


def test_a_device_without_the_plug_in_refuses_a_bundle_that_needs_its_step(tmp_path: Path) -> None:
    folder = example(tmp_path, "reference").bundle.folder
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["input"]["preprocessing"] = ["grey_world"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadBundle, match="no plug-in here brings the pre-processing step 'grey_world'"):
        Served(folder, threads=1)


def test_the_steps_of_a_project_never_change_and_are_not_for_boxes() -> None:
    one, other = (ProjectSpec(dataset="d", training=TrainingSpec(preprocessing=each)) for each in ([], ["grey_world"]))
    with pytest.raises(InvalidInput, match="is empty and cannot become grey_world"):
        rules.check_change(one, other)
    rules.check_change(other, other)
    detecting = ProjectSpec(
        dataset="d", task=Task.DETECTION, training=TrainingSpec(space="yolo", preprocessing=["grey_world"])
    )
    with pytest.raises(InvalidInput, match="take none to detect"):
        rules.check("p", detecting)
    assert "preprocessing" in projects_pb2.TrainingSpec.DESCRIPTOR.fields_by_name


def test_a_run_whose_plug_in_is_gone_ends_with_the_name_of_what_is_missing(tmp_path: Path) -> None:
    hub = Hub(tmp_path, ProjectSpec(dataset="digits", training=TrainingSpec(resolution_px=16)))
    hub.spec = ProjectSpec(dataset="digits", build=BuildSpec(targets=["packed/fp32"]))
    hub.plan({}).write(hub.work.folder)
    with pytest.raises(InvalidInput, match=r"spec\.build\.targets: nothing builds packed/fp32"):
        hub.run(lambda: hub.stage("prepare", lambda report: prepare(hub.work, report)))
