"""Without a search each device type gets the most complex of five networks that it runs within its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from milonga_hub.devices.service import MeasurementItem
from milonga_hub.learning.checkpoint import load_supernet
from milonga_hub.learning.spaces import space
from milonga_hub.learning.spaces.fixed import levels
from milonga_hub.projects.models import BuildSpec, Limits, ProjectSpec, SearchSpec, SearchStrategy, TrainingSpec
from milonga_hub.runs.baseline import choose_levels, measure_levels, train_levels
from milonga_hub.runs.building import build
from milonga_hub.runs.candidates import Specialised
from milonga_hub.search.rules import choose_level

from tests.learning.data import write_arrays
from tests.runs.boards import Board, Hub, Speed, weights

SPEC = ProjectSpec(
    dataset="digits",
    training=TrainingSpec(space="resnet", resolution_px=16, epochs=3, batch_size=16, learning_rate=0.2, threads=1),
    search=SearchSpec(strategy=SearchStrategy.BASELINE),
    build=BuildSpec(targets=["onnxruntime/fp32", "onnxruntime/fp16"], max_accuracy_loss_points=5.0),
)
LIMITS = {
    "hopeless": Limits(latency_ms=1e-6),
    "picky": Limits(min_accuracy=1.0),
    "slow": Limits(latency_ms=1.0),
    "small": Limits(model_bytes=250_000),
}
# Milliseconds for a thousand weights: the largest of all levels has half a million.
SPEEDS = {"fast": 1e-6, "hopeless": 1e-6, "picky": 1e-6, "slow": 1e-5, "small": 1e-6}


class _Hub(Hub):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SPEC)
        self.boards = {name: Board(name, self._speed(name, ms)) for name, ms in SPEEDS.items()}
        self.wanted = self.plan(LIMITS)
        write_arrays(Path(self.work.data(self.wanted)))
        self.trained_before_measured = False

    def _speed(self, name: str, ms: float) -> Speed:
        def speed(item: MeasurementItem, asked: int) -> float:
            self.trained_before_measured |= asked < 10 and (self.work.folder / "train").exists()
            return ms * weights(self.services.blobs, item)

        return speed

    def baseline(self) -> tuple[dict[str, Any], dict[str, Any], Specialised]:
        """Measure, choose and train as a run does."""
        work, plan = self.work, self.wanted

        async def stages() -> tuple[dict[str, Any], dict[str, Any], Specialised]:
            found = await self.stage("profile", lambda report: measure_levels(work, plan, report))
            chosen = await self.stage("search", lambda report: choose_levels(work, plan, found, report))
            trained, choices = await self.stage("train", lambda report: train_levels(work, plan, found, chosen, report))
            return found, trained, choices

        return self.run(stages)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> _Hub:
    return _Hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def ended(hub: _Hub) -> tuple[dict[str, Any], dict[str, Any], Specialised]:
    return hub.baseline()


Ended = tuple[dict[str, Any], dict[str, Any], Specialised]


def _level(ended: Ended, name: str) -> tuple[int, str]:
    candidate = ended[2].choices[name].candidate
    return candidate["level"], candidate["precision"]


def test_every_level_is_measured_on_every_type_before_any_is_trained(ended: Ended, hub: _Hub) -> None:
    assert not hub.trained_before_measured
    for board in hub.boards.values():
        asked = {(item.subnet, item.precision) for item in board.asked}
        assert len(board.asked) == len(asked) == 10
    assert [one.name for one in hub.services.runs.get(hub.work.run.name).stages][:4] == [
        "prepare", "profile", "search", "train",
    ]  # fmt: skip


def test_a_type_gets_the_most_complex_level_that_it_was_measured_to_run_in_time(ended: Ended, hub: _Hub) -> None:
    assert _level(ended, "fast") == (5, "fp32")
    level = _level(ended, "slow")[0]
    times = {(subnet, precision): ms for subnet, precision, ms, _ in ended[0]["times"]["slow"]}
    within = [one["level"] for one in ended[0]["subnets"] if times[one["subnet"], one["precision"]] <= 1.0]
    assert level == max(within) and 1 < level < 5
    assert ended[2].choices["slow"].measured_ms == max(ms for ms in times.values() if ms <= 1.0)


def test_a_limit_on_bytes_makes_half_precision_carry_a_larger_network(ended: Ended) -> None:
    level, precision = _level(ended, "small")
    sizes = {(one["level"], one["precision"]): one["model_bytes"] for one in ended[0]["subnets"]}
    assert precision == "fp16"
    assert sizes[level, "fp16"] <= 250_000 < sizes[level, "fp32"]
    assert sizes[level + 1, "fp16"] > 250_000


def test_only_chosen_levels_are_trained_and_types_share_them(ended: Ended, hub: _Hub) -> None:
    chosen = {choice.candidate["level"] for choice in ended[2].choices.values()}
    assert {path.name for path in (hub.work.folder / "train").iterdir()} == {f"level{level}" for level in chosen}
    curve = hub.services.runs.history(hub.work.run.name)
    assert [point["epoch"] for point in curve] == [float(1 + n) for n in range(3 * len(chosen))]


def test_what_was_trained_is_what_was_measured(ended: Ended, hub: _Hub) -> None:
    family = space("resnet", 16)
    for choice in ended[2].choices.values():
        level = choice.candidate["level"]
        alone = load_supernet(hub.work.folder / "train" / f"level{level}" / "checkpoint.pt").space
        assert alone.digest(alone.largest()) == family.digest(levels(family)[level - 1]) == choice.candidate["subnet"]
        assert 0.1 < choice.candidate["accuracy"] <= 1.0


def test_a_type_that_runs_no_level_in_time_is_told_the_fastest(ended: Ended) -> None:
    said = ended[2].impossible["hopeless"]
    assert "the fastest found is 16 px" in said and "ms measured" in said and "raise the limits" in said


def test_a_level_that_is_not_accurate_enough_is_not_used(ended: Ended) -> None:
    assert "picky" not in ended[2].choices
    assert "level 5" in ended[2].impossible["picky"] and "100.0% is asked for" in ended[2].impossible["picky"]


def test_people_see_all_levels_with_what_is_known_of_each(ended: Ended, hub: _Hub) -> None:
    found, _ = hub.services.runs.candidates(hub.work.run.name, "slow", page_size=100)
    assert len(found) == 10 and {one.note for one in found} == {f"level {n}" for n in range(1, 6)}
    assert all(one.measured_ms is not None and one.drawing.startswith("<svg") for one in found)
    [chosen] = [one for one in found if one.chosen]
    assert chosen.accuracy == ended[2].choices["slow"].candidate["accuracy"]
    trained = {f"level {choice.candidate['level']}" for choice in ended[2].choices.values()}
    assert {one.note for one in found if one.accuracy is not None} == trained


def test_its_builds_hold_and_its_version_has_no_supernet_to_train_on_from(ended: Ended, hub: _Hub) -> None:
    _, trained, chosen = ended
    version, found = hub.run(
        lambda: hub.stage("build", lambda report: build(hub.work, hub.wanted, trained, chosen, report))
    )
    assert version.supernet == "" and found == chosen
    builds = hub.services.builds.chosen(version.name)
    assert builds.keys() == chosen.choices.keys()
    assert builds["small"].precision == "fp16" and builds["small"].model_bytes <= 250_000


def test_a_run_that_is_resumed_repeats_itself(ended: Ended, hub: _Hub) -> None:
    asked = hub.asked()
    for board in hub.boards.values():
        board.speed = lambda item, count: 1e9
    assert hub.baseline() == ended
    assert hub.asked() == asked


def test_the_most_complex_level_wins_in_the_first_precision_that_fits() -> None:
    rows: list[dict[str, Any]] = [
        {"subnet": subnet, "precision": precision, "level": level, "model_bytes": size}
        for precision, factor in (("fp32", 4), ("int8", 1))
        for level, subnet, size in ((1, "a", factor), (2, "b", 2 * factor), (3, "c", 3 * factor))
    ]
    times = {(row["subnet"], row["precision"]): float(row["level"]) for row in rows}
    assert choose_level(rows, times, {}) == rows[2]
    assert choose_level(rows, times, {"latency_ms": 2.0}) == rows[1]
    assert choose_level(rows, times, {"model_bytes": 4}) == rows[5]
    assert choose_level(rows, {key: times[key] for key in times if key[0] != "c"}, {}) == rows[1]
    assert choose_level(rows, times, {"latency_ms": 0.5}) is None
