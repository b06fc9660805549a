"""Project files say what a user wants; mistakes in them are named with their line."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from milonga.v1 import projects_pb2 as pb
from milonga.v1 import projects_pb2_grpc
from milonga_hub.blobs import BlobStore
from milonga_hub.bridge import from_proto, to_proto
from milonga_hub.datasets.models import Dataset
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.learning.spaces import SPACES
from milonga_hub.learning.spaces.yolo import NAMED
from milonga_hub.projects import rules
from milonga_hub.projects.models import (
    PROJECT_FILE,
    DriftTrigger,
    Limits,
    ProjectSpec,
    RetrainingPolicy,
    SearchStrategy,
    TrainingSpec,
)
from milonga_hub.projects.rpc import ProjectRpc
from milonga_hub.projects.service import ProjectService
from milonga_hub.tasks import Task
from milonga_hub.transports import grpc as grpc_transport
from pydantic import BaseModel

from tests.certificates import Tls
from tests.databases import database_url
from tests.datasets.test_datasets import _packed, _pictures

SHIPPED = sorted((Path(__file__).parent.parent.parent / "fleet_configs" / "projects").glob("*.yaml"))
HEAD = "kind: Project\nname: digits\nspec:\n"


@pytest.fixture
def projects(tmp_path: Path) -> ProjectService:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    events = EventBus()
    datasets = DatasetService(database, BlobStore(tmp_path / "blobs"), events)
    datasets.import_archive("digits", _packed(_pictures(tmp_path / "a", count=60)), False, False)
    return ProjectService(database, events, datasets)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_project_file_is_valid(path: Path) -> None:
    name, spec = PROJECT_FILE.load(path)
    rules.check(name, spec)


def test_the_template_shows_the_defaults() -> None:
    _, spec = PROJECT_FILE.load(next(path for path in SHIPPED if path.name == "pictures.yaml"))
    assert spec == ProjectSpec(dataset="mine")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "  dataset: d\n  training: {epoch: 3}\n",
            r'p\.yaml:5: unknown key "epoch" in spec\.training; did you mean \'epochs\'',
        ),
        ("  dataset: d\n  limits:\n    - {latencyms: 3}\n", r"p\.yaml:6: unknown key \"latencyms\" .* 'latency_ms'"),
        ("  datasett: d\n", r"p\.yaml:4: unknown key \"datasett\""),
        ("  dataset: d\n  training:\n    epochs: many\n", r"p\.yaml:6: spec\.training\.epochs: .*integer"),
        (
            "  dataset: d\n  training:\n    epochs: 0\n",
            r"p\.yaml:6: spec\.training\.epochs: .*greater than or equal to 1",
        ),
        ("  dataset: d\n  rollout: {waves: [0.5, 0.2]}\n", r"p\.yaml:5: spec\.rollout: waves must add up to 1"),
        ("  task: SEGMENTATION\n  dataset: d\n", r"p\.yaml:4: spec\.task: .*CLASSIFICATION"),
        ("  dataset: [d\n", r"p\.yaml:\d: not YAML"),
        ("  dataset: d\n  training:\n    epochs: yes\n", r"p\.yaml:6: spec\.training\.epochs: .*integer"),
        ("  dataset: d\n  training:\n    learning_rate: .inf\n", r"p\.yaml:6: .*finite"),
        ("  dataset: d\n  training:\n    epochs: 99999999999\n", r"p\.yaml:6: .*less than or equal to 2147483647"),
        ("  dataset: d\n  training:\n    seed: -1\n", r"p\.yaml:6: .*greater than or equal to 0"),
        ("  dataset: d\n  task: CLASSIFICATION\n  dataset: e\n", r"p\.yaml:6: spec\.dataset stands twice"),
        ("  dataset: 2001-13-01\n", r"p\.yaml: not YAML that can be read: month"),
        ("  dataset: d\n1: x\n", r'p\.yaml:5: unknown key "1" in the file'),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        PROJECT_FILE.parse(HEAD + text, "p.yaml")


def test_a_drift_policy_of_an_earlier_version_is_a_part_of_retraining() -> None:
    old = "  dataset: d\n  drift: {enabled: true, quorum: 3, cool_down_seconds: 5}\n"
    _, spec = PROJECT_FILE.parse(HEAD + old, "p.yaml")
    drift = DriftTrigger(enabled=True, quorum=3)
    assert spec == ProjectSpec(dataset="d", retraining=RetrainingPolicy(drift=drift, cool_down_seconds=5.0))
    stored = ProjectSpec.model_validate_json(
        '{"dataset": "d", "drift": {"enabled": true, "quorum": 3, "cool_down_seconds": 5}}'
    )
    sent = from_proto(
        pb.ProjectSpec(dataset="d", drift=pb.DriftPolicy(enabled=True, quorum=3, cool_down_seconds=5)), ProjectSpec
    )
    assert stored == sent == spec == ProjectSpec.model_validate_json(spec.model_dump_json())
    assert from_proto(to_proto(spec, pb.ProjectSpec), ProjectSpec) == spec
    with pytest.raises(InvalidInput, match="belongs to retraining now"):
        PROJECT_FILE.parse(HEAD + old + "  retraining: {new_labels: 3}\n", "p.yaml")


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"schedule": "0 3 * *"}, r"retraining\.schedule: '0 3 \* \*' is no schedule; .*weekday"),
        ({"schedule": "0 3 * * sut"}, r"retraining\.schedule: '0 3 \* \* sut' is no schedule: .*sut"),
        ({"schedule": "61 3 * * *"}, r"retraining\.schedule: '61 3 \* \* \*' is no schedule: .*out of range"),
        ({"schedule": "0 0 30 2 *"}, r"retraining\.schedule: .*never comes"),
        ({"schedule": "r r * * *"}, r"retraining\.schedule: .*is no schedule"),
        ({"time_zone": "Asia/Soul"}, r"retraining\.time_zone: .*'Asia/Soul'; write for example"),
        ({"time_zone": "../etc"}, r"retraining\.time_zone"),
        ({"quiet_hours": ["8-18"]}, r"quiet_hours\[0\]: '8-18' .*write them as"),
        ({"quiet_hours": ["08:00-08:00"]}, r"quiet_hours\[0\]: .*ends where it starts"),
        ({"quiet_hours": ["00:00-12:00", "12:00-00:00"]}, "quiet_hours: they fill the day"),
    ],
)
def test_times_that_there_are_not_are_named(policy: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        rules.check("d", ProjectSpec(dataset="d", retraining=RetrainingPolicy(**policy)))


@pytest.mark.parametrize("schedule", ["0 3 * * sat", "*/15 8-18 * * mon-fri", "0 0 1 mar,sep *", "0 3 * * thu#2"])
def test_schedules_are_written_as_cron_has_them(schedule: str) -> None:
    rules.check("d", ProjectSpec(dataset="d", retraining=RetrainingPolicy(schedule=schedule)))


def test_brackets_thousands_deep_are_refused() -> None:
    with pytest.raises(InvalidInput, match="not YAML that can be read"):
        PROJECT_FILE.parse("[" * 5000, "p.yaml")


@pytest.mark.parametrize(
    "spec",
    [
        "&s {limits: [*s]}",
        "{a: &a [1, 1, 1, 1, 1, 1, 1, 1], b: &b [*a, *a, *a, *a, *a, *a, *a, *a], c: &c [*b, *b, *b, *b, *b, *b, *b, *b], d: &d [*c, *c, *c, *c, *c, *c, *c, *c], e: [*d, *d, *d, *d, *d, *d, *d, *d]}",
    ],
)
def test_aliases_that_stand_for_themselves_or_for_a_world_of_values_are_refused(spec: str) -> None:
    with pytest.raises(InvalidInput, match="write values out"):
        PROJECT_FILE.parse(f"kind: Project\nname: a\nspec: {spec}", "p.yaml")


_YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from([*ProjectSpec.model_fields, *TrainingSpec.model_fields, "epoch", "kind"])


@given(st.dictionaries(_KEYS, _YAML | st.dictionaries(_KEYS, _YAML, max_size=3), max_size=4))
def test_any_file_is_a_project_or_refused_with_its_line(spec: dict[str, Any]) -> None:
    text = yaml.safe_dump({"kind": "Project", "name": "p", "spec": spec}, allow_unicode=True)
    try:
        _, read = PROJECT_FILE.parse(text, "p.yaml")
    except InvalidInput as error:
        assert all(line.startswith("p.yaml") for line in str(error).splitlines() if ": " in line)
    else:
        # What is taken can be sent, stored and read again.
        assert from_proto(to_proto(read, pb.ProjectSpec), ProjectSpec).training == read.training
        assert ProjectSpec.model_validate_json(read.model_dump_json()) == read


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        PROJECT_FILE.parse("kind: Projekt\nnme: x\nspec: {datset: d}\n", "p.yaml")
    said = str(caught.value)
    assert all(word in said for word in ("Projekt", '"nme"', '"datset"', "name must be given"))


def test_applying_twice_changes_nothing(projects: ProjectService) -> None:
    spec = ProjectSpec(dataset="digits")
    project, changed = projects.apply("digits", spec)
    assert (project.spec_generation, changed) == (1, ["new project"])
    again, changed = projects.apply("digits", spec)
    assert (again.spec_generation, changed) == (1, [])


def test_a_dry_run_tells_what_would_change_and_changes_nothing(projects: ProjectService) -> None:
    projects.apply("digits", ProjectSpec(dataset="digits"))
    wanted = ProjectSpec.model_validate({"dataset": "digits", "training": {"epochs": 40}})
    _, changed = projects.apply("digits", wanted, dry_run=True)
    assert changed == ["spec.training.epochs: 30 -> 40"]
    assert projects.get("digits").spec.training.epochs == 30


def test_a_missing_data_set_names_the_command(projects: ProjectService) -> None:
    with pytest.raises(FailedPrecondition, match="milonga datasets import FOLDER --name cats"):
        projects.apply("cats", ProjectSpec(dataset="cats"))
    with pytest.raises(NotFound, match="milonga apply"):
        projects.get("cats")


def test_an_unknown_target_or_a_broken_selector_is_refused(projects: ProjectService) -> None:
    with pytest.raises(InvalidInput, match=r"tpu/int4.*onnxruntime/int8"):
        projects.apply("digits", ProjectSpec.model_validate({"dataset": "digits", "build": {"targets": ["tpu/int4"]}}))
    with pytest.raises(InvalidInput):
        projects.apply("digits", ProjectSpec(dataset="digits", selector="type in (a"))
    with pytest.raises(InvalidInput, match="project name"):
        projects.apply("My Project", ProjectSpec(dataset="digits"))


def test_a_broken_selector_is_named_by_its_place() -> None:
    spec = ProjectSpec(dataset="d", limits=[Limits(), Limits(selector="type in (a")])
    with pytest.raises(InvalidInput, match=r"spec\.limits\[1\]\.selector: "):
        rules.check("digits", spec)


def test_the_spaces_that_may_be_asked_for_are_those_there_are() -> None:
    assert set(rules.SPACES[Task.CLASSIFICATION]) == set(SPACES)
    assert set(rules.SPACES[Task.DETECTION]) == set(NAMED)
    with pytest.raises(
        InvalidInput, match=r"spec\.training\.space: there is no space 'vgg'; for classification take mbv3"
    ):
        rules.check("d", ProjectSpec(dataset="d", training=TrainingSpec(space="vgg")))


@pytest.mark.parametrize(
    ("task", "space", "size", "told"),
    [
        (
            Task.CLASSIFICATION,
            "yolo",
            64,
            r"spec\.training\.space: 'yolo' is for detection; for classification take mbv3",
        ),
        (Task.DETECTION, "mbv3", 64, r"spec\.training\.space: 'mbv3' is for classification; for detection take yolo, "),
        (
            Task.DETECTION,
            "yolo26n",
            72,
            r"spec\.training\.resolution_px: detectors need a multiple of 32, not 72; take 64",
        ),
    ],
)
def test_a_space_of_another_task_or_size_is_refused(task: Task, space: str, size: int, told: str) -> None:
    spec = ProjectSpec(task=task, dataset="d", training=TrainingSpec(space=space, resolution_px=size))
    with pytest.raises(InvalidInput, match=told):
        rules.check("d", spec)


def test_a_project_without_a_data_set_may_watch_drift_and_nothing_that_would_train(projects: ProjectService) -> None:
    projects.apply("yard", ProjectSpec(retraining=RetrainingPolicy(drift=DriftTrigger(enabled=True))))
    for policy, said in (({"new_labels": 5}, "new_labels"), ({"schedule": "0 3 * * sat"}, "schedule")):
        with pytest.raises(InvalidInput, match=rf"^spec\.retraining\.{said} needs a data set to train on"):
            projects.apply("yard", ProjectSpec(retraining=RetrainingPolicy.model_validate(policy)))


def test_a_project_needs_a_data_set_of_its_task(projects: ProjectService) -> None:
    spec = ProjectSpec(task=Task.DETECTION, dataset="digits", training=TrainingSpec(space="yolo"))
    with pytest.raises(
        FailedPrecondition, match=r"spec\.task is DETECTION, and the data set 'digits' is for CLASSIFICATION"
    ):
        projects.apply("digits", spec)


def test_detection_without_ultralytics_names_the_extra(
    projects: ProjectService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milonga_hub.projects.service.find_spec", lambda name: None)
    with projects._database.session() as session:
        session.add(Dataset(name="parts", latest_version=1, task=Task.DETECTION))
    spec = ProjectSpec(task=Task.DETECTION, dataset="parts", training=TrainingSpec(space="yolo"))
    with pytest.raises(FailedPrecondition, match=r"pip install 'milonga-hub\[yolo\]'"):
        projects.apply("parts", spec)


def test_a_repeated_request_gets_the_same_changes_again(projects: ProjectService) -> None:
    spec = ProjectSpec(dataset="digits")
    first = projects.apply("digits", spec, request_id="r1")
    assert projects.apply("digits", spec, request_id="r1")[1] == first[1] == ["new project"]
    assert projects.apply("digits", spec, request_id="r2")[1] == []
    assert projects.get("digits").spec_generation == 1


def test_a_dry_run_takes_no_request_id_away(projects: ProjectService) -> None:
    spec = ProjectSpec(dataset="digits")
    projects.apply("digits", spec, dry_run=True, request_id="r1")
    assert projects.apply("digits", spec, request_id="r1")[1] == ["new project"]


class _Run(BaseModel):
    name: str
    reason: str


def _apply(projects: ProjectService, *requests: pb.ApplyProjectRequest) -> list[pb.ApplyProjectResponse]:
    """Send the requests to a real gRPC server, which starts runs as the hub does: once for each request id."""
    started: dict[str, _Run] = {}

    def start(project: str, reason: str, request_id: str) -> _Run:
        name = f"projects/{project}/runs/{len(started) + 1}"
        return started.setdefault(request_id, _Run(name=name, reason=reason))

    async def send(folder: str) -> list[pb.ApplyProjectResponse]:
        tls = Tls(Path(folder))
        server, port = await grpc_transport.serve(
            [ProjectRpc(projects, start, projects.get, lambda name: None)], "127.0.0.1", 0, tls.server(), gate=None
        )
        try:
            async with tls.channel(f"127.0.0.1:{port}") as channel:
                stub: Any = projects_pb2_grpc.ProjectServiceStub(channel)
                return [await stub.ApplyProject(request) for request in requests]
        finally:
            await server.stop(0)

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(send(folder))


def _request(request_id: str = "", **more: bool) -> pb.ApplyProjectRequest:
    return pb.ApplyProjectRequest(
        name="digits", spec=pb.ProjectSpec(dataset="digits"), start_run=True, request_id=request_id, **more
    )


def test_a_repeated_apply_gets_the_run_that_the_first_one_started(projects: ProjectService) -> None:
    first, again, other = _apply(projects, _request("r1"), _request("r1"), _request("r2"))
    assert first.run.name == "projects/digits/runs/1" and first.run.reason == "new project"
    assert again == first
    assert not other.HasField("run") and not other.changes


def test_an_apply_that_died_before_its_run_started_starts_it_when_repeated(projects: ProjectService) -> None:
    projects.apply("digits", ProjectSpec(dataset="digits"), request_id="r1")
    (repeated,) = _apply(projects, _request("r1"))
    assert repeated.run.name == "projects/digits/runs/1"


def test_a_dry_run_over_grpc_starts_nothing(projects: ProjectService) -> None:
    (answer,) = _apply(projects, _request("r1", dry_run=True))
    assert list(answer.changes) == ["new project"] and not answer.HasField("run")
    assert projects.list() == ([], "")


def test_later_limits_override_earlier_ones_where_they_match() -> None:
    spec = ProjectSpec(
        dataset="d",
        limits=[Limits(latency_ms=50, model_bytes=1000), Limits(selector="type=pi5", latency_ms=20)],
    )
    assert rules.limits_for(spec, {"type": "pi5"}) == Limits(latency_ms=20, model_bytes=1000)
    assert rules.limits_for(spec, {"type": "orin"}) == Limits(latency_ms=50, model_bytes=1000)
    fleet = [{"type": "orin"}, *[{"type": "pi5"}] * 3]
    assert sorted(each.latency_ms or 0 for each in rules.limits_among(spec, fleet)) == [20, 50], "each once"
    assert rules.limits_of_type(spec, "pi5") == Limits(latency_ms=20, model_bytes=1000)
    by_label = spec.model_copy(update={"limits": [*spec.limits, Limits(selector="type=pi5, canary", latency_ms=9)]})
    assert rules.limits_of_type(by_label, "pi5") is None, "devices of one type may differ"


def test_a_baseline_can_be_asked_for_in_a_file_and_over_the_wire() -> None:
    text = "kind: Project\nname: p\nspec: {dataset: d, search: {strategy: BASELINE, further_measurements: 0}}"
    spec = PROJECT_FILE.parse(text, "p.yaml")[1]
    assert (spec.search.strategy, spec.search.further_measurements) == (SearchStrategy.BASELINE, 0)
    assert from_proto(to_proto(spec, pb.ProjectSpec), ProjectSpec) == spec
    with pytest.raises(InvalidInput, match="SEARCH"):
        PROJECT_FILE.parse(text.replace("BASELINE", "GUESS"), "p.yaml")
