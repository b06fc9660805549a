"""Champion against challenger: real bundles, on the same pictures, each in its own scaling."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from milonga_compiler.bundle import read_bundle, write_bundle
from milonga_hub.builds.compare_job import _by_age
from milonga_hub.jobs import JobError
from milonga_hub.learning.data import load
from onnx import numpy_helper

from tests.builds.test_job import TARGETS, _run, _run_here, _spec


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a bundle and the data that it was made on; the newest version brought a third of the pictures."""
    folder = tmp_path_factory.mktemp("compare")
    spec = _spec(folder, newest=2)
    built = _run_here("build", {**spec, "targets": TARGETS[:1]}, folder / "job")["builds"][0]
    return Path(built["directory"]), Path(spec["data"])


def _variant(bundle: Path, folder: Path, noise: float, **entries: Any) -> Path:
    """Return the bundle with noise on its last layer and other entries in its manifest."""
    manifest = {**read_bundle(bundle).manifest, **entries}
    model = onnx.load(str(bundle / "model.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "weights":
            values = numpy_helper.to_array(tensor)
            shaken = values + np.random.default_rng(1).normal(0, noise, values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(shaken.astype(np.float32), "weights"))
    copy = folder / "shaken.onnx"
    onnx.save(model, str(copy))
    sources = {file["path"]: bundle / file["path"] for file in manifest["files"]}
    write_bundle(folder / "bundle", manifest, {**sources, "model.onnx": copy})
    return folder / "bundle"


def _compare(champion: Path, challenger: Path, data: Path, folder: Path) -> dict[str, Any]:
    return _run_here("compare", _order(champion, challenger, data), folder)


def _order(champion: Path, challenger: Path, data: Path) -> dict[str, Any]:
    return {"champion": str(champion), "challenger": str(challenger), "data": str(data)}


def test_a_much_better_version_wins_and_the_reason_names_both(good: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = good
    worse = _variant(bundle, tmp_path, 0.5, model_version="models/digits/versions/7")
    said = _compare(worse, bundle, data, tmp_path / "won")
    assert said["better"] and said["p_value"] < 0.001
    assert said["reason"].startswith("better: v1 answers") and "pictures better than v7" in said["reason"]
    assert [group["name"] for group in said["groups"]] == ["old", "new"]
    assert [group["name"] for group in said["classes"]] == [str(digit) for digit in range(10)]
    for key in ("count", "gained", "lost"):
        assert sum(group[key] for group in said["classes"]) == sum(group[key] for group in said["groups"])
    lost = _compare(bundle, worse, data, tmp_path / "lost")
    assert not lost["better"] and "on old pictures" in lost["reason"]


def test_new_is_what_the_champion_has_not_learned_however_many_versions_brought_it() -> None:
    added = np.array([1, 2, 3, 3, 5])

    def new(learned: int) -> list[bool]:
        return [bool(one) for one in dict(_by_age(added, learned))["new"]]

    assert new(2) == [False, False, True, True, True]
    assert new(5) == [False] * 5
    assert new(0) == [False, False, False, False, True], "not known: with the newest version"
    assert dict(_by_age(np.array([1, 1]), 0))["new"].tolist() == [False, False]


def test_pictures_of_another_size_are_scaled_to_the_bundles_own(good: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = good
    with np.load(data) as arrays:
        doubled = {name: arrays[name] for name in arrays.files}
    doubled["x_val"] = doubled["x_val"].repeat(2, axis=2).repeat(2, axis=3)
    np.savez(tmp_path / "doubled.npz", **doubled)
    here = _compare(bundle, bundle, data, tmp_path / "here")["groups"]
    there = _compare(bundle, bundle, tmp_path / "doubled.npz", tmp_path / "there")["groups"]
    for one, other in zip(here, there, strict=True):
        assert other["champion_accuracy"] == pytest.approx(one["champion_accuracy"], abs=0.05)


def test_classes_are_matched_by_name_and_not_by_place(good: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = good
    with np.load(data) as arrays:
        turned = {name: arrays[name] for name in arrays.files}
    turned["classes"] = turned["classes"][::-1]
    turned["y_val"] = 9 - turned["y_val"]
    np.savez(tmp_path / "turned.npz", **turned)
    before, after = (_compare(bundle, bundle, path, tmp_path / path.stem) for path in (data, tmp_path / "turned.npz"))
    assert before["groups"] == after["groups"]


def _enough(data: Path, path: Path) -> Path:
    """Write the data with its validation pictures again and again, each with a digest of its own."""
    with np.load(data) as arrays:
        found: dict[str, Any] = {
            name: np.concatenate([arrays[name]] * 5) if name.endswith("_val") else arrays[name] for name in arrays.files
        }
    np.savez(path, **found, digests_val=np.array([f"{number:064x}" for number in range(len(found["y_val"]))]))
    return path


def test_pictures_that_were_held_back_judge_alone(good: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = good
    worse, enough = _variant(bundle, tmp_path, 0.5), _enough(data, tmp_path / "enough.npz")
    apart = load(enough).held_back
    assert 0 < apart.sum() < len(apart)
    said = _compare(worse, bundle, enough, tmp_path / "won")
    for groups in (said["groups"], said["classes"]):
        assert sum(group["count"] for group in groups) == apart.sum()
    assert said["reason"].endswith(
        f"judged by {apart.sum()} pictures that were held back for this: no training, no search and no gate of a build has seen how they are answered"
    )


def test_too_few_pictures_to_hold_some_back_are_told_with_the_result(good: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = good
    said = _compare(bundle, bundle, data, tmp_path / "job")
    assert "pictures that chose it" in said["reason"] and said["reason"].endswith("some are held back from 200 on")


def test_a_damaged_bundle_ends_the_job_with_its_name(good: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = good
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "model.onnx").write_bytes(b"torn")
    with pytest.raises(JobError, match=r"broken/model\.onnx"):
        _run("compare", _order(bundle, broken, data), tmp_path / "job")


def test_no_pictures_are_no_comparison(good: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = good
    with np.load(data) as arrays:
        empty = {name: arrays[name][:0] if name.endswith("_val") else arrays[name] for name in arrays.files}
    np.savez(tmp_path / "empty.npz", **empty)
    with pytest.raises(JobError, match="no validation pictures"):
        _compare(bundle, bundle, tmp_path / "empty.npz", tmp_path / "job")
