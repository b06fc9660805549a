"""A run with a model from elsewhere: read, held against itself, built for each type, measured and chosen; nothing is trained."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milonga.inputs import Input
from milonga_compiler.build import Built, State
from milonga_compiler.target import Target
from milonga_hub.builds import original_job
from milonga_hub.builds.evidence_for_job import TaskEvidence, gathered
from milonga_hub.builds.job import _unjudged
from milonga_hub.builds.models import BuildState
from milonga_hub.callers import Caller, CallerKind, Role, ask
from milonga_hub.errors import FailedPrecondition, InvalidInput, PermissionDenied
from milonga_hub.jobs import JobContext
from milonga_hub.models.imports import Sent
from milonga_hub.projects.models import BuildSpec, ProjectSpec
from milonga_hub.runs.models import Run, Trigger
from milonga_hub.runs.pipeline import carry_out
from milonga_hub.runs.plan import TypePlan
from milonga_hub.runs.prepare import planned_types
from milonga_hub.runs.work import Work
from milonga_hub.tasks import Task

from tests.builds.test_job import _spec
from tests.compiler.foreign import classifier, detector
from tests.compiler.networks import MEAN, SIZE_PX, STD
from tests.runs.boards import Board, Hub

NAMES = ("bolt", "nut", "screw")
TARGETS = ["onnxruntime/fp32", "onnxruntime/int8"]
SCALING: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    hub = Hub(tmp_path_factory.mktemp("hub"), ProjectSpec(dataset="digits"))
    hub.services.projects.apply("yard", ProjectSpec(task=Task.DETECTION, build=BuildSpec(targets=TARGETS)))
    hub.boards = {"pi": Board("pi", lambda item, count: 2.0)}
    return hub


async def _imported(hub: Hub, sent: Sent, file: Path) -> tuple[Run, str]:
    run = await hub.services.imports.take(sent, file)
    return run, await carry_out(Work(hub.work.services, run))


def test_a_run_says_which_of_the_projects_targets_a_type_cannot_run(hub: Hub) -> None:
    spec = ProjectSpec(build=BuildSpec(targets=["tvm/fp32", *TARGETS, "tensorrt/fp16"]))

    async def planned() -> list[TypePlan]:
        return planned_types(hub.work, spec)

    (item,) = hub.run(planned)
    assert item.targets == TARGETS and item.words == f"{item.name} (which cannot run tvm/fp32, tensorrt/fp16)"


def test_without_a_data_set_a_version_is_built_and_says_what_is_not_known(hub: Hub, tmp_path: Path) -> None:
    file = detector(tmp_path / "mine.onnx")
    sent = Sent("yard", file.name, classes=NAMES, request_id="once", by="kim", **SCALING)
    run, outcome = hub.run(lambda: _imported(hub, sent, file))
    services = hub.services
    assert outcome == "models/yard/versions/1 is mine.onnx; send it out: milonga rollouts create yard/1."
    version = services.models.get_version("models/yard/versions/1")
    assert (version.run, version.dataset_version, version.accuracies) == (run.name, "", {})
    assert version.imported is not None
    assert (version.imported.by, version.imported.file_name, version.imported.classes) == ("kim", "mine.onnx", [*NAMES])
    assert services.blobs.read(version.imported.digest) == file.read_bytes()
    builds = {one.precision: one for one in services.builds.list(version.name)[0]}
    assert {name: one.state for name, one in builds.items()} == {
        "fp32": BuildState.VERIFIED, "int8": BuildState.REJECTED,
    }  # fmt: skip
    assert builds["fp32"].chosen and builds["fp32"].accuracy is None and "not known" in builds["fp32"].reason
    assert [gate.name for gate in builds["fp32"].gates] == ["parity", "latency", "size"]
    assert "pictures to calibrate on" in builds["int8"].reason
    # What devices get is a bundle like any other; the same request comes to the same run.
    manifest = services.builds.manifest(builds["fp32"].bundle)
    assert (manifest["task"], manifest["output"]["bins"], manifest["postprocess"]["iou_threshold"]) == (
        "detection",
        4,
        0.7,
    )
    assert (services.builds.reference(builds["fp32"].bundle), services.builds.reference("sha256:" + "0" * 64)) == (
        {},
        None,
    )
    assert asyncio.run(services.imports.take(sent, file)).name == run.name
    assert services.builds.network(version.name).read_bytes() == services.blobs.read(version.imported.network)


def test_what_rounding_costs_is_not_known_without_pictures() -> None:
    halved = _unjudged(Built(Target.parse("onnxruntime/fp16"), State.VERIFIED, ""))
    assert halved.state is State.BUILT and "--data DATASET" in halved.reason
    refused = Built(Target.parse("onnxruntime/fp16"), State.REJECTED, "it does not run")
    assert _unjudged(refused) == refused


def test_with_a_data_set_the_network_itself_is_judged_first(tmp_path: Path) -> None:
    order = _spec(tmp_path)
    seen = Input(SIZE_PX, MEAN, STD).described()
    names = order["manifest"]["classes"]
    spec = {key: order[key] for key in ("onnx", "data")} | {"input": seen, "classes": names, "told": None, "threads": 1}
    with (tmp_path / "progress").open("w") as said:
        judged = original_job.run(spec, tmp_path, JobContext(said))
    assert judged["accuracy"] == pytest.approx(order["subnet_accuracy"], abs=1e-6)
    assert (judged["unreferenced"], judged["measure"]) == ("", "accuracy")
    # The reference's outputs are what builds are held against.
    expected = np.load(judged["expected"])
    assert np.allclose(expected, np.load(order["expected"]), atol=1e-3)
    # Of all pictures, not only of the first: drift is told from what a build that does not run here makes of them.
    assert len(expected) == judged["count"] > 2


def test_classes_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    order = _spec(tmp_path)
    logits, names = np.load(order["expected"]), order["manifest"]["classes"]
    evidence, _ = gathered(order)
    assert isinstance(evidence, TaskEvidence)
    plain, turned = evidence.judge(), replace(evidence, names=names[::-1]).judge()
    strange = replace(evidence, names=["zero", *names[1:]]).judge()
    for judge, outputs in ((plain, logits), (turned, logits[:, ::-1]), (strange, logits)):
        judge.add(np.ascontiguousarray(outputs))
    assert turned.accuracy() == plain.accuracy() > strange.accuracy()
    recalls = {judge: judge.entries()["judged"]["recall"] for judge in (plain, turned, strange)}
    assert recalls[turned] == recalls[plain][::-1] and recalls[strange][0] is None
    assert recalls[strange][1:] == recalls[plain][1:]


def test_a_project_without_a_data_set_trains_nothing(hub: Hub) -> None:
    with pytest.raises(FailedPrecondition, match=r"milonga models import yard FILE\.onnx"):
        hub.services.runs.start("yard", Trigger.MANUAL, "")


def _refused(hub: Hub, sent: Sent, file: Path, kind: type[Exception] = InvalidInput) -> str:
    with pytest.raises(kind) as caught:
        asyncio.run(hub.services.imports.take(sent, file))
    return str(caught.value)


def test_what_does_not_belong_together_is_refused_before_a_run_begins(hub: Hub, tmp_path: Path) -> None:
    file = classifier(tmp_path / "mine.onnx")
    sent, before = Sent("yard", file.name, classes=NAMES, **SCALING), len(hub.services.runs.list()[0])
    assert "is for classification, and the project yard for detection" in _refused(hub, sent, file)
    assert "another digest; send it again" in _refused(hub, replace(sent, digest="sha256:" + "0" * 64), file)
    assert "shows 0, 1, 2, 3, 4 and 5 more, of which the network knows none" in _refused(hub, replace(sent, project="digits"), file)  # fmt: skip
    assert "three, for red, green and blue" in _refused(hub, replace(sent, mean=[0.5]), file)
    assert len(hub.services.runs.list()[0]) == before


def test_only_administrators_may_send_what_runs_code_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    sent = Sent("yard", "mine.pt")
    assert "yolo export model=mine.pt format=onnx" in _refused(hub, sent, tmp_path)

    async def as_operator() -> None:
        ask(Caller("kim", CallerKind.ACCOUNT, Role.OPERATOR))
        hub.services.imports.check(replace(sent, trust_pickle=True))

    with pytest.raises(PermissionDenied, match="only administrators"):
        asyncio.run(as_operator())
