"""A chosen subnet that is trained on alone begins with what it inherited, and is used where it got better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from milonga_compiler.files import write_atomically
from milonga_compiler.target import Target
from milonga_hub.learning import spaces
from milonga_hub.learning.checkpoint import Recipe, load_supernet
from milonga_hub.learning.evaluation import Evaluated
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.subnets import described
from milonga_hub.learning.tasks import opened
from milonga_hub.learning.train import Trainer
from milonga_hub.projects.models import BuildSpec, Limits, ProjectSpec, SearchSpec, SearchStrategy, TrainingSpec
from milonga_hub.runs import rules
from milonga_hub.runs.candidates import Choice, Specialised, keep
from milonga_hub.runs.finetune import finetune, finetuned
from milonga_hub.runs.plan import TypePlan
from milonga_hub.runs.train import train

from tests.learning.data import write_arrays
from tests.runs.boards import Hub

TRAINING = TrainingSpec(
    space="resnet", resolution_px=16, epochs=2, batch_size=16, learning_rate=0.2, threads=1, finetune_epochs=3
)
SPEC = ProjectSpec(dataset="digits", training=TRAINING, build=BuildSpec(targets=["onnxruntime/fp32"]))


class _Tuned:
    """A run whose types chose a subnet of a supernet of two epochs, in two precisions, and what fine-tuning made of it."""

    def __init__(self, folder: Path) -> None:
        self.hub = Hub(folder, SPEC)
        self.work, plan = self.hub.work, self.hub.plan({})
        write_arrays(Path(self.work.data(plan)))
        self.trained: dict[str, Any] = self.hub.run(
            lambda: self.hub.stage("train", lambda r: train(self.work, plan, r))
        )
        self.supernet = load_supernet(self.trained["checkpoint"])
        space = self.supernet.space
        small = self._row(space.smallest())
        # As if nothing could be better than what it inherited.
        self.perfect = {**small, "precision": "fp16", "accuracy": 1.0}
        chosen = {"one": small, "other": small, "perfect": self.perfect}
        types = {name: TypePlan(name=name, limits=Limits(), targets=["onnxruntime/fp32"]) for name in chosen}
        self.found = Specialised(
            {name: Choice(types[name], row, 1.0) for name, row in chosen.items()}, {"weak": "too weak"}
        )
        for name, row in chosen.items():
            keep(self.work, name, [row], {(row["subnet"], row["precision"]): 1.0}, row, front=[row])
        self.result = self.hub.run(
            lambda: self.hub.stage(
                "finetune", lambda report: finetune(self.work, plan, self.trained, self.found, report)
            )
        )

    def row(self, name: str) -> dict[str, Any]:
        return self.found.choices[name].candidate

    def _row(self, encoding: tuple[int, ...]) -> dict[str, Any]:
        task = opened(self.work.data(self.hub.plan({})), 16)
        evaluated = Evaluated(self.supernet, task, self.work.folder, write_atomically)
        row = evaluated.exported(encoding, Target.parse("onnxruntime/fp32"))
        return {**described(self.supernet, encoding), **row, "accuracy": evaluated.accuracy(encoding)}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> _Tuned:
    return _Tuned(tmp_path_factory.mktemp("hub"))


def test_types_that_chose_the_same_subnet_share_a_training(tuned: _Tuned) -> None:
    assert len(list((tuned.work.folder / "finetune").iterdir())) == 1
    curve = tuned.hub.services.runs.history(tuned.work.run.name)
    assert [point["epoch"] for point in curve] == [float(number) for number in range(1, 6)], "2, then 3"


def test_an_epoch_that_no_hub_heard_of_is_in_the_curve_once_its_training_has_ended(tuned: _Tuned) -> None:
    runs, work, plan = tuned.hub.services.runs, tuned.work, tuned.hub.plan({})
    whole = runs.history(work.run.name)
    runs.change(work.run.name, history=[point for point in whole if point["epoch"] != 1.0])
    tuned.hub.run(lambda: tuned.hub.stage("train", lambda report: train(work, plan, report)))
    assert runs.history(work.run.name) == whole


def test_what_got_better_is_what_builds_are_made_from(tuned: _Tuned) -> None:
    assert tuned.result.choices["one"].candidate == tuned.result.choices["other"].candidate
    before, after = tuned.row("one"), tuned.result.choices["one"].candidate
    assert after["accuracy"] > before["accuracy"], "two epochs leave room"
    assert after["onnx"] != before["onnx"] and after["files"] != before["files"]
    assert (after["subnet"], after["subnet_accuracy"]) == (before["subnet"], after["accuracy"])
    assert tuned.result.impossible == {"weak": "too weak"}


def test_what_did_not_get_better_stays_as_it_was_inherited(tuned: _Tuned) -> None:
    assert tuned.result.choices["perfect"] == tuned.found.choices["perfect"]


def test_people_see_what_it_gained_beside_what_was_known(tuned: _Tuned) -> None:
    for name, words in (("one", "fine-tuned: "), ("perfect", "as inherited: 100.0%, not better after fine-tuning")):
        (shown,), _ = tuned.hub.services.runs.candidates(tuned.work.run.name, name)
        assert shown.note.startswith(words) and shown.accuracy == tuned.result.choices[name].candidate["accuracy"]
        assert shown.chosen and shown.on_front and shown.measured_ms == 1.0
    metrics = tuned.hub.told("finetune").metrics
    assert metrics["accuracy one"] > metrics["accuracy inherited one"]


def test_a_network_alone_begins_with_what_it_takes_of_the_supernet(tuned: _Tuned, tmp_path: Path) -> None:
    space, base = tuned.supernet.space, Path(tuned.trained["checkpoint"])
    one = Fixed(space, space.smallest())
    task = opened(tuned.work.data(tuned.hub.plan({})), 16)
    recipe = Recipe("resnet", 16, epochs=1, batch_size=16, learning_rate=0.1, seed=1)
    begun = Trainer(task, one, recipe, tmp_path / "one.pt", base).supernet
    pictures = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(begun(pictures, one.largest()), tuned.supernet(pictures, space.smallest()))
    with pytest.raises(ValueError, match="cannot go on as mbv3 at 16 px"):
        Trainer(task, Fixed(mbv3 := spaces.space("mbv3", 16), mbv3.smallest()), recipe, tmp_path / "two.pt", base)


def test_the_stage_is_there_where_it_is_asked_for() -> None:
    assert [stage.name for stage in rules.stages_of(SPEC)][3:6] == ["search", "finetune", "build"]
    plain = ProjectSpec(dataset="digits")
    assert "finetune" not in [stage.name for stage in rules.stages_of(plain)]
    baseline = plain.model_copy(update={"training": TRAINING, "search": SearchSpec(strategy=SearchStrategy.BASELINE)})
    assert "finetune" not in [stage.name for stage in rules.stages_of(baseline)]


def test_one_that_takes_the_place_of_another_is_as_good_and_trained_no_second_time(tuned: _Tuned) -> None:
    plan, choice = tuned.hub.plan({}), tuned.found.choices["perfect"]
    other = Choice(choice.type, {**choice.candidate, "precision": "fp32", "accuracy": 0.0}, 1.0)
    keep(tuned.work, choice.type.name, [other.candidate], {}, None)
    known = tuned.hub.services.runs.history(tuned.work.run.name)
    found = replace(tuned.found, choices={**tuned.found.choices, "perfect": replace(choice, others=(other,))})
    taken = tuned.hub.run(lambda: finetuned(tuned.work, plan, tuned.trained, found, other, tell=lambda progress: None))
    assert taken.candidate["accuracy"] == tuned.result.choices["one"].candidate["accuracy"]
    assert tuned.hub.services.runs.history(tuned.work.run.name) == known
