"""Project files say what a user wants; mistakes in them are named with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from milonga_hub.blobs import BlobStore
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.projects import rules
from milonga_hub.projects.files import load_project, parse_project
from milonga_hub.projects.models import Limits, ProjectSpec
from milonga_hub.projects.service import ProjectService

from tests.datasets.test_datasets import _packed, _pictures

SHIPPED = sorted((Path(__file__).parent.parent.parent / "fleet_configs" / "projects").glob("*.yaml"))
HEAD = "kind: Project\nname: digits\nspec:\n"


@pytest.fixture
def projects(tmp_path: Path) -> ProjectService:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    database.create_tables()
    events = EventBus()
    datasets = DatasetService(database, BlobStore(tmp_path / "blobs"), events)
    datasets.import_archive("digits", _packed(_pictures(tmp_path / "a", count=60)), False, False)
    return ProjectService(database, events, datasets)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_project_file_is_valid(path: Path) -> None:
    name, spec = load_project(path)
    rules.check(name, spec)


def test_the_template_shows_the_defaults() -> None:
    _, spec = load_project(next(path for path in SHIPPED if path.name == "pictures.yaml"))
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
        ("  dataset: d\n  rollout: {waves: [0.5, 0.2]}\n", r"p\.yaml:5: .*add up to 1"),
        ("  task: DETECTION\n  dataset: d\n", r"p\.yaml:4: spec\.task: .*CLASSIFICATION"),
        ("  dataset: [d\n", r"p\.yaml:\d: not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse_project(HEAD + text, "p.yaml")


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_project("kind: Projekt\nnme: x\nspec: {datset: d}\n", "p.yaml")
    said = str(caught.value)
    assert all(word in said for word in ("Projekt", '"nme"', '"datset"', "spec.dataset must be given"))


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


def test_later_limits_override_earlier_ones_where_they_match() -> None:
    spec = ProjectSpec(
        dataset="d",
        limits=[Limits(latency_ms=50, model_bytes=1000), Limits(selector="type=pi5", latency_ms=20)],
    )
    assert rules.limits_for(spec, {"type": "pi5"}) == Limits(latency_ms=20, model_bytes=1000)
    assert rules.limits_for(spec, {"type": "orin"}) == Limits(latency_ms=50, model_bytes=1000)
