"""A run as a pipeline of Kubeflow, done by the SDK's own runner in processes of this machine: it ends as the hub's run did.

`make test-kfp` installs the SDK, which is an extra, and runs this.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from milonga_compiler.bundle import verify_bundle
from milonga_hub.cli import main
from milonga_hub.devices.service import MeasurementItem
from milonga_hub.projects.models import BuildSpec, Limits, ProjectSpec, SearchSpec, TrainingSpec
from milonga_hub.runs.building import build
from milonga_hub.runs.candidates import Specialised
from milonga_hub.runs.finetune import finetune
from milonga_hub.runs.models import Comparison
from milonga_hub.runs.profile import profile
from milonga_hub.runs.specialise import search
from milonga_hub.runs.train import train

from tests.cli.conftest import served
from tests.runs.boards import Board, Hub, weights

kfp = pytest.importorskip("kfp", reason="the SDK of Kubeflow Pipelines is not installed; make test-kfp installs it")

# A hub's run and a pipeline of eight steps, each some processes: a minute of processor time, many on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SPEC = ProjectSpec(
    dataset="digits",
    training=TrainingSpec(
        space="resnet",
        resolution_px=24,
        epochs=2,
        batch_size=16,
        learning_rate=0.1,
        seed=3,
        threads=1,
        finetune_epochs=1,
    ),
    search=SearchSpec(
        measured_subnets=6, further_measurements=2, evaluated_subnets=8, population=16, generations=4, seed=5
    ),
    build=BuildSpec(targets=["onnxruntime/fp32", "reference/fp32"]),
)
# A limit that binds. Builds are a little slower than what the search timed, and keep it as well: a pipeline takes no next best subnet.
SLOW_MS = 2.8
# As a runner without a cluster leaves them: one folder for each artifact.
STEPS = ("import-data", "train", "profile", "search", "finetune", "build", "package", "compare")


@dataclass
class _Both:
    """A run of a hub, and what the pipeline made of it: its folder, and those of the artifacts."""

    hub: Hub
    found: Specialised
    version: str
    exported: Path
    outputs: Path

    def artifact(self, step: str, name: str) -> Path:
        (path,) = self.outputs.glob(f"*/{step}/{name}")
        return path


class _Hub(Hub):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SPEC)
        self.boards = {
            "fast": Board("fast", lambda *one: self._ms(1.0, *one)),
            "slow": Board("slow", lambda *one: self._ms(9.0, *one)),
        }

    def _ms(self, factor: float, item: MeasurementItem, asked: int) -> float:
        return factor * (0.05 + 1e-5 * weights(self.services.blobs, item))


async def _hub_run(hub: Hub) -> tuple[Specialised, str]:
    plan, work = hub.plan({"slow": Limits(latency_ms=SLOW_MS)}), hub.work
    plan.write(work.folder)
    hub.services.datasets.write_training_data(plan.dataset_version, SPEC.training.resolution_px, work.folder)
    trained = await hub.stage("train", lambda report: train(work, plan, report))
    profiled = await hub.stage("profile", lambda report: profile(work, plan, trained, report))
    found = await hub.stage("search", lambda report: search(work, plan, trained, profiled, report))
    tuned = await hub.stage("finetune", lambda report: finetune(work, plan, trained, found, report))
    version, able = await hub.stage("build", lambda report: build(work, plan, trained, tuned, report))
    return able, version.name


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> _Both:
    folder = tmp_path_factory.mktemp("both")
    (folder / "hub").mkdir()
    hub = _Hub(folder / "hub")
    found, version = hub.run(lambda: _hub_run(hub), seconds=1800)
    # As if devices of one type had run the version before.
    hub.services.runs.keep_comparison(hub.work.run.name, Comparison(device_type="fast", champion=version))
    exported = folder / "exported"
    with served(hub.services) as address:
        assert main(["--hub", address, "export", "kfp", "digits/1", "-o", str(exported), "--json"]) == 0
    kfp.local.init(runner=kfp.local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "outputs"))
    pipeline = kfp.components.load_component_from_file(str(exported / "pipeline.yaml"))
    pipeline()
    return _Both(hub, found, version, exported, folder / "outputs")


def test_the_pipeline_chooses_the_subnets_that_the_run_chose(both: _Both) -> None:
    front = json.loads(both.artifact("search", "front").read_text())
    assert {name: one["chosen"]["subnet"] for name, one in front.items()} == {
        name: choice.candidate["subnet"] for name, choice in both.found.choices.items()
    }
    assert {name: one["ms"] for name, one in front.items()} == {
        name: choice.measured_ms for name, choice in both.found.choices.items()
    }
    assert all(one["was_measured"] for one in front.values()) and len(front) == 2


def test_the_pipeline_trains_what_the_run_trained(both: _Both) -> None:
    trained = json.loads((both.artifact("train", "supernet") / "trained.json").read_text())
    ours = [point for point in both.hub.services.runs.history(both.hub.work.run.name) if point["epoch"] <= 2]
    assert [each["accuracy_largest"] for each in trained["history"]] == [each["accuracy_largest"] for each in ours]


def test_builds_are_those_of_the_run_but_for_the_version_in_their_manifests(both: _Both) -> None:
    index = json.loads((both.artifact("package", "packages") / "index.json").read_text())
    for name, chosen in both.hub.services.builds.chosen(both.version).items():
        assert (index[name]["chosen"], index[name]["subnet"]) == (chosen.target, chosen.subnet)
        assert index[name]["builds"][chosen.target]["accuracy"] == chosen.accuracy
        folder = both.artifact("build", "builds") / name / chosen.target.replace("/", "-")
        theirs = {file.path: file.digest for file in verify_bundle(folder).files}
        ours = {file.path: file.digest for file in chosen.files}
        assert theirs["model.onnx"] == ours["model.onnx"]
        packed = both.artifact("package", "packages") / index[name]["builds"]["onnxruntime/fp32"]["file"]
        assert {"manifest.json", "example.py"} <= set(zipfile.ZipFile(packed).namelist())


def test_a_champion_is_compared_with(both: _Both) -> None:
    compared = json.loads((both.artifact("compare", "comparisons") / "comparisons.json").read_text())
    assert list(compared) == ["fast"] and compared["fast"]["better"] is False
    assert sum(group["count"] for group in compared["fast"]["groups"]) > 5


def test_the_file_is_a_pipeline_whose_parameters_are_the_runs_own(both: _Both) -> None:
    written: dict[str, Any] = yaml.safe_load((both.exported / "pipeline.yaml").read_text())
    parameters = written["root"]["inputDefinitions"]["parameters"]
    assert {name: parameters[name]["defaultValue"] for name in ("epochs", "seed", "search_seed", "finetune_epochs")} == {
        "epochs": 2.0, "seed": 3.0, "search_seed": 5.0, "finetune_epochs": 1.0,
    }  # fmt: skip
    assert parameters["limits"]["defaultValue"] == {"fast": {}, "slow": {"latency_ms": SLOW_MS}}
    executors = written["deploymentSpec"]["executors"]
    images = {one["container"]["image"] for one in executors.values() if "container" in one}
    assert images == {"milonga-hub:0.1.0"} and set(STEPS) <= set(written["root"]["dag"]["tasks"])
    assert "pip install" not in (both.exported / "pipeline.yaml").read_text()


def test_the_network_that_comes_back_is_imported_by_the_line_that_is_told(both: _Both) -> None:
    packages = both.artifact("package", "packages")
    words = json.loads((packages / "index.json").read_text())["fast"]["import"].split()
    words[words.index("fast.onnx")] = str(packages / "fast.onnx")
    words[words.index("classes.txt")] = str(packages / "classes.txt")
    with served(both.hub.services) as address:
        assert main(["--hub", address, *words[1:]]) == 0
    newest = both.hub.services.runs.latest("digits")
    assert newest is not None and newest.imported is not None
    assert newest.imported.classes == [str(number) for number in range(10)]
