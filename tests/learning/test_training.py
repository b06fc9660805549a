"""Training teaches all subnets, goes on exactly where it was, and says what is wrong with what it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from milonga.pictures import normalise
from milonga_hub.learning.checkpoint import Checkpoint, Point, Recipe, load_supernet
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import Data, load
from milonga_hub.learning.spaces import space
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.task import Mixed, runner
from milonga_hub.learning.train import MemoryTooSmall, Trainer, TrainingDiverged, evaluated, subnet
from milonga_hub.training.job import task_of_training

from tests.learning.data import write_arrays

SPACE = space("resnet", 16)
RECIPE = Recipe("resnet", 16, epochs=3, batch_size=16, learning_rate=0.2, seed=0, precision="fp32")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arrays(tmp_path_factory.mktemp("data") / "data.npz", count=80)


@pytest.fixture(scope="module")
def data(arrays: Path) -> Data:
    return load(arrays)


@pytest.fixture(scope="module")
def task(data: Data) -> Classification:
    return Classification(data)


@pytest.fixture(scope="module")
def trained(task: Classification, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "checkpoint.pt"
    Trainer(task, SPACE, RECIPE, path).run()
    return path


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classification, Path]:
    """Return enough pictures to learn from, and what learned from them for long enough to know them."""
    folder = tmp_path_factory.mktemp("taught")
    task = Classification(load(write_arrays(folder / "data.npz", count=160)))
    Trainer(task, SPACE, replace(RECIPE, epochs=10), folder / "checkpoint.pt").run()
    return task, folder / "checkpoint.pt"


def _weights(path: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_supernet(path).state_dict()
    return weights


def _same(first: Path, second: Path) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_weights(first).values(), _weights(second).values(), strict=True))


def _interrupted(task: Classification, recipe: Recipe, path: Path) -> None:
    """Train until some steps after the second epoch."""

    class Interrupted(Exception):
        pass

    def stop(fraction: float, point: Point | None, loss: float) -> None:
        if point is not None and point.epoch == 2 and fraction > 0.7:
            raise Interrupted

    with pytest.raises(Interrupted):
        Trainer(task, SPACE, recipe, path).run(stop)


@pytest.mark.slow
def test_training_teaches_small_and_large_alike(taught: tuple[Classification, Path]) -> None:
    """Ten classes: chance is 10 %."""
    task, path = taught
    for encoding, chance in ((SPACE.smallest(), 0.3), (SPACE.largest(), 0.5)):
        assert evaluated(load_supernet(path), encoding, task) > chance


def test_training_that_was_interrupted_ends_with_the_very_same_weights(
    task: Classification, trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    _interrupted(task, RECIPE, path)
    history = Trainer(task, SPACE, RECIPE, path).run()
    assert [point.epoch for point in history] == [1, 2, 3]
    assert _same(path, trained)


def test_the_largest_learns_alone_before_it_teaches(
    task: Classification, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, epochs=2, largest_alone_share=0.5)
    assert _run_by_epoch(Trainer(task, SPACE, recipe, tmp_path / "a.pt"), monkeypatch)[0] == {SPACE.largest()}


def test_a_training_that_goes_on_teaches_from_the_start(
    task: Classification, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, epochs=1, largest_alone_share=1.0)
    (ran,) = _run_by_epoch(Trainer(task, SPACE, recipe, tmp_path / "a.pt", base=trained), monkeypatch)
    assert SPACE.smallest() in ran


def _run_by_epoch(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[set[Any]]:
    """Train, and return which subnets each epoch ran; evaluations run extracted ones."""
    ran: list[set[Any]] = []
    forward = trainer._live.forward

    def noted(x: torch.Tensor, encoding: Any) -> Any:
        if len(ran) <= len(trainer.history):
            ran.append(set())
        ran[-1].add(tuple(encoding))
        return forward(x, encoding)

    monkeypatch.setattr(trainer._live, "forward", noted)
    trainer.run()
    return ran


def test_another_seed_trains_another_supernet(task: Classification, trained: Path, tmp_path: Path) -> None:
    Trainer(task, SPACE, replace(RECIPE, seed=1), tmp_path / "other.pt").run()
    assert not _same(tmp_path / "other.pt", trained)


def test_training_goes_on_from_another_checkpoint(task: Classification, trained: Path, tmp_path: Path) -> None:
    trainer = Trainer(task, SPACE, replace(RECIPE, epochs=1, learning_rate=1e-6), tmp_path / "c.pt", base=trained)
    trainer.run()
    known = evaluated(load_supernet(trained), SPACE.largest(), task)
    assert abs(trainer.history[-1].accuracy_largest - known) < 0.05
    with pytest.raises(ValueError, match="cannot go on as"):
        Trainer(task, space("densenet", 16), replace(RECIPE, space="densenet"), tmp_path / "d.pt", base=trained)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    torch.save({"recipe": {}, "model": {}}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match="train again"):
        Checkpoint.read(tmp_path / "old.pt")


def test_a_checkpoint_whose_weights_have_other_names_is_refused(
    task: Classification, trained: Path, tmp_path: Path
) -> None:
    known = Checkpoint.read(trained)
    name, *_ = known.model
    replace(known, model={**known.model, f"{name}.old": known.model[name]}).write(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="train again"):
        load_supernet(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="train again"):
        Trainer(task, SPACE, RECIPE, tmp_path / "c.pt", base=tmp_path / "other.pt")
    with pytest.raises(ValueError, match="train again"):
        Trainer(task, SPACE, RECIPE, tmp_path / "other.pt")


def test_a_batch_that_does_not_fit_into_memory_is_taken_in_pieces(
    task: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(task, SPACE, replace(RECIPE, epochs=1), tmp_path / "c.pt")
    forward, sizes = trainer._live.forward, []

    def limited(x: torch.Tensor, encoding: Any) -> torch.Tensor:
        if len(x) > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
        sizes.append(len(x))
        return forward(x, encoding)

    monkeypatch.setattr(trainer._live, "forward", limited)
    (point,) = trainer.run()
    assert max(sizes) == 8 and np.isfinite(point.loss)


def test_memory_that_holds_no_piece_of_a_batch_is_told_with_what_to_change(
    task: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited(x: torch.Tensor, encoding: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer = Trainer(task, SPACE, RECIPE, tmp_path / "c.pt")
    monkeypatch.setattr(trainer._live, "forward", limited)
    with pytest.raises(MemoryTooSmall, match="pictures of 16 px do not fit into memory; lower resolution_px"):
        trainer.run()
    trainer._team.size = 2
    with pytest.raises(MemoryTooSmall, match="16 pictures does not fit into memory on 2 processes; lower batch_size"):
        trainer.run()


def test_pieces_of_a_batch_add_up_to_its_gradient(task: Classification, tmp_path: Path) -> None:
    """With the statistics of each piece, so only nearly."""
    trainer = Trainer(task, SPACE, RECIPE, tmp_path / "c.pt")
    for count in (2, 3, 16, 17):
        for pieces in (1, 2, 8):
            trainer._pieces = pieces
            parts = trainer._parts(count)
            assert parts[0][0] == 0 and parts[-1][1] == count and all(stop - start >= 2 for start, stop, _ in parts)
            assert sum(share for *_, share in parts) == pytest.approx(1)


def test_pictures_that_are_no_numbers_stop_the_training_with_advice(data: Data, tmp_path: Path) -> None:
    broken = Classification(replace(data, x_train=torch.full_like(data.x_train, float("nan"))))
    with pytest.raises(TrainingDiverged, match=r"lower the learning rate .*0\.05"):
        Trainer(broken, SPACE, RECIPE, tmp_path / "c.pt").run()
    assert not (tmp_path / "c.pt").exists()


@pytest.mark.parametrize(
    ("count", "rate", "how"), [(16, 1e30, "for 1 of 2 steps"), (10, 1e39, "the weights are no finite numbers any more")]
)
def test_a_step_that_is_far_too_long_is_told_in_the_shortest_training(
    count: int, rate: float, how: str, tmp_path: Path
) -> None:
    task = Classification(load(write_arrays(tmp_path / "few.npz", count=count)))
    recipe = replace(RECIPE, epochs=1, batch_size=8, learning_rate=rate, warm_up_share=0.0, weight_decay=1e3)
    with pytest.raises(TrainingDiverged, match=f"{how}; lower the learning rate"):
        Trainer(task, SPACE, recipe, tmp_path / "c.pt").run()
    assert not (tmp_path / "c.pt").exists()


def test_one_network_alone_is_evaluated_once_an_epoch(
    task: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []

    def judge(_: Any, size: int) -> float:
        judged.append(size)
        return 0.5

    monkeypatch.setattr(task, "evaluate", judge)
    alone = Fixed(SPACE, SPACE.smallest())
    (point,) = Trainer(task, alone, replace(RECIPE, epochs=1), tmp_path / "c.pt").run()
    assert len(judged) == 1 and point.accuracy_largest == point.accuracy_smallest == 0.5


def test_an_unknown_optimiser_is_refused_with_the_known_ones(task: Classification, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no optimiser 'lion'; take auto, sgd or adamw"):
        Trainer(task, SPACE, replace(RECIPE, optimiser="lion"), tmp_path / "c.pt")


def test_adamw_teaches_and_goes_on_exactly_where_it_was(task: Classification, tmp_path: Path) -> None:
    recipe, whole, parts = replace(RECIPE, optimiser="adamw", learning_rate=0.02), tmp_path / "a.pt", tmp_path / "b.pt"
    losses = [point.loss for point in Trainer(task, SPACE, recipe, whole).run()]
    assert losses[-1] < losses[0]
    _interrupted(task, recipe, parts)
    Trainer(task, SPACE, recipe, parts).run()
    assert _same(whole, parts)


def test_training_stops_early_when_nothing_gets_better(task: Classification, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=6, learning_rate=1e-9, patience=1)
    assert len(Trainer(task, SPACE, recipe, tmp_path / "c.pt").run()) < 6


def test_two_processes_train_one_supernet(arrays: Path, tmp_path: Path) -> None:
    """Gradients are added up, so both hold the same weights, and learn from all pictures.

    The last batch has three, too few to share.
    """
    program = f"""
import sys, torch
from pathlib import Path
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.spaces import space
from milonga_hub.learning.train import Trainer
torch.set_num_threads(1)
recipe = Recipe("resnet", 16, epochs=1, batch_size=19, learning_rate=0.2, seed=0, precision="fp32")
trainer = Trainer(Classification(load({str(arrays)!r})), space("resnet", 16), recipe, Path(sys.argv[1]) / "c.pt")
trainer.run()
torch.save(
    {{**trainer.supernet.state_dict(), "loss": torch.tensor(trainer.history[0].loss)}},
    Path(sys.argv[1]) / f"rank{{trainer._team.rank}}.pt",
)
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command, str(tmp_path)], check=True, env=environment, timeout=200)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    # Of ten classes, before much is learned; each process sees half of the pictures.
    assert float(first.pop("loss")) > 0.7 * np.log(10)
    assert all(torch.equal(first[name], weight) for name, weight in _weights(tmp_path / "c.pt").items())


def test_twenty_pictures_are_enough_to_train(tmp_path: Path) -> None:
    task = Classification(load(write_arrays(tmp_path / "few.npz", count=20)))
    (point,) = Trainer(task, SPACE, replace(RECIPE, epochs=1, batch_size=0), tmp_path / "c.pt").run()
    assert 0 <= point.accuracy_largest <= 1


def test_rare_classes_count_for_more() -> None:
    """90 pictures of one class and 10 of another: roots of the sizes, with a mean of 1."""
    labels = torch.tensor([0] * 90 + [1] * 10)
    pictures = torch.zeros(100, 3, 16, 16)
    raw = np.zeros((100, 3, 16, 16), dtype=np.uint8)
    added = np.ones(100, dtype=np.int64)
    one = Data(
        pictures, labels, labels[:1], [0.0] * 3, [1.0] * 3, ("a", "b"), raw, raw[:1], added, added[:1], added[:1] < 0
    )
    weights = Classification(one)._weights
    assert weights[1] / weights[0] == pytest.approx(3.0) and weights[labels].mean() == pytest.approx(1.0)


def test_mixed_batches_hold_their_shares_of_each_data_set(tmp_path: Path) -> None:
    data = load(write_arrays(tmp_path / "data.npz", count=160))
    old, new = (replace(data, x_train=data.x_train * 0 + value) for value in (0.0, 1.0))
    mixed = Mixed([Classification(old), Classification(new)], [3.0, 1.0])
    seen = [pictures for pictures, _ in mixed.batches(16, torch.Generator().manual_seed(0))]
    assert {len(pictures) for pictures in seen} == {16}
    assert all(float(pictures[:, 0, 0, 0].mean()) == 0.25 for pictures in seen)
    with pytest.raises(ValueError, match="same classes"):
        Mixed([Classification(old), Classification(replace(new, names=("a", "b", "c")))], [1.0, 1.0])


def test_a_run_that_trains_on_sees_few_new_pictures_often_and_replays_the_old(data: Data) -> None:
    added = np.ones(len(data.x_train), dtype=np.int64)
    added[-6:] = 2
    pictures = data.x_train * 0
    pictures[-6:] = 1.0
    task = Classification(replace(data, x_train=pictures, added_train=added))
    assert task_of_training(task, continues=False, learned=1) is task
    replaying = task_of_training(task, continues=True, learned=1)
    seen = torch.cat([some for some, _ in replaying.batches(10, torch.Generator().manual_seed(0))])
    assert 0.3 <= float((seen[:, 0, 0, 0] > 0.5).float().mean()) < 0.5
    # Many new pictures need no more room than they take.
    many = Classification(replace(data, added_train=np.arange(len(added)) % 2))
    assert task_of_training(many, continues=True, learned=0) is many


def test_pictures_are_normalised_as_in_serving(arrays: Path, data: Data) -> None:
    with np.load(arrays) as known:
        expected = normalise(known["x_val"], data.mean, data.std)
    task = Classification(data)
    assert np.array_equal(np.concatenate(list(task.validation(task.input(16)))), expected)
    assert next(task.validation(task.input(8))).shape[1:] == (3, 8, 8)


@pytest.mark.slow
def test_a_subnet_is_recalibrated_before_it_is_used(taught: tuple[Classification, Path]) -> None:
    task, path = taught
    supernet = load_supernet(path)
    ready = task.evaluate(runner(subnet(supernet, SPACE.largest(), task)), 16)
    assert ready > task.evaluate(runner(supernet.extract(SPACE.largest()).eval()), 16)
