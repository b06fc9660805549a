"""A project of TANGO becomes an equal one, and what has no equal is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.cli.verbs import app
from milonga_hub.errors import InvalidInput
from milonga_hub.exchange.tango import read
from milonga_hub.projects.models import PROJECT_FILE
from milonga_hub.projects.rules import check
from typer.testing import CliRunner

# As in TANGO's guide and sample files.
DETECTION = {
    "project_info.yaml": {
        "task_type": "detection", "target_info": "Odroid-N2", "cpu": "arm", "acc": "opencl", "memory": 4, "os": "ubuntu",
        "engine": "tflite", "target_hostip": "1.2.3.4", "nas_type": "yolov7", "model_size": "-t", "dataset": "dataset.yaml",
        "target": "target.yaml", "lightweight_level": 5, "precision_level": 5, "user_editing": "no", "confidence_thresh": 0.7,
    },
    "dataset.yaml": {"train": "coco128/images/train2017", "val": "coco128/images/val2017", "nc": 2, "names": ["a", "b"]},
    "target.yaml": {"min_latency": 7.5, "max_power": "None", "max_model_size": 20, "max_flops": 1e9, "max_peak_memory": None},
    "neural_net_info.yaml": {
        "input_tensor_shape": [1, 3, 604, 604], "input_data_type": "int8", "conf_thres": 0.25, "iou_thres": 0.45,
    },
}  # fmt: skip


def _project(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def _changed(**values: Any) -> dict[str, Any]:
    return {**DETECTION, "project_info.yaml": {**DETECTION["project_info.yaml"], **values}}


def test_a_detector_for_a_known_board_becomes_an_equal_project(tmp_path: Path) -> None:
    folder = _project(tmp_path / "My Project", DETECTION)
    found = read(folder)
    name, spec = PROJECT_FILE.parse(found.text, "project.yaml")
    check(name, spec)
    assert (name, spec.task, spec.selector) == ("my-project", "DETECTION", "type=odroid-n2")
    assert spec.training.space == "yolo26n" and spec.training.resolution_px == 608
    assert spec.build.targets == ["litert/int8"]
    # Pictures a second become milliseconds a picture.
    assert spec.limits[0].latency_ms == pytest.approx(133.33, abs=0.01) and spec.limits[0].model_bytes == 20_000_000
    assert spec.limits[0].memory_bytes is None
    assert (spec.detection.score_threshold, spec.detection.iou_threshold) == (0.7, 0.45)
    assert found.pictures == folder / "coco128"
    notes = "\n".join(found.notes)
    for said in ("lightweight_level: 5", "604 px become 608", "max_flops", "target_hostip", "data.yaml"):
        assert said in notes


def test_pictures_are_found_by_either_name_of_their_file_and_old_deployments_are_named(tmp_path: Path) -> None:
    files = {("datasets.yaml" if name == "dataset.yaml" else name): content for name, content in DETECTION.items()}
    assert "datasets.yaml" in files
    folder = _project(tmp_path / "other", {**files, "deployment.yaml": {"deploy": {"type": "docker"}}})
    found = read(folder)
    assert found.pictures == folder / "coco128"
    assert any(note.startswith("deployment.yaml is left out") for note in found.notes)


def test_pictures_with_a_data_yaml_of_their_own_need_no_other(tmp_path: Path) -> None:
    folder = _project(tmp_path / "own", DETECTION)
    assert any("copy it to" in note for note in read(folder).notes)
    (folder / "coco128").mkdir()
    (folder / "coco128" / "data.yaml").write_text("names: [a, b]", encoding="utf-8")
    notes = read(folder).notes
    assert not any("copy it to" in note for note in notes) and any("name the same classes" in note for note in notes)


def test_a_classifier_for_the_cloud_takes_every_device(tmp_path: Path) -> None:
    files = {
        "project_info.yaml": {
            "task_type": "classification",
            "target_info": "cloud",
            "engine": "pytorch",
            "nas_type": "resnet",
        },
        "dataset.yaml": {
            "train": "/shared/datasets/ChestXRay/train",
            "val": "/shared/datasets/ChestXRay/test",
            "nc": 2,
        },
    }
    found = read(_project(tmp_path, files), "chest")
    check(found.name, found.spec)
    assert (found.spec.training.space, found.spec.selector, found.spec.build.targets) == ("resnet", "", [])
    assert found.pictures == Path("/shared/datasets/ChestXRay")
    assert any("engine: pytorch" in note for note in found.notes)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"task_type": "segmentation"}, "there are classification and detection"),
        ({"task_type": None}, "does not say task_type"),
        ({"confidence_thresh": "high"}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, info: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read(_project(tmp_path, _changed(**info)))


def test_a_limit_that_is_no_number_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"max_model_size is 'small' in target\.yaml"):
        read(_project(tmp_path, {**DETECTION, "target.yaml": {"max_model_size": "small"}}))


def test_a_folder_without_a_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="name the folder of a TANGO project"):
        read(tmp_path)


_ANY = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.lists(st.integers(), max_size=4)
)


@given(st.dictionaries(st.sampled_from(sorted(DETECTION["project_info.yaml"])), _ANY), st.data())
def test_whatever_the_files_hold_it_is_a_project_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, info: dict[str, Any], data: st.DataObject
) -> None:
    network = data.draw(st.dictionaries(st.sampled_from(sorted(DETECTION["neural_net_info.yaml"])), _ANY))
    files = {**_changed(**info), "neural_net_info.yaml": network}
    try:
        found = read(_project(tmp_path_factory.mktemp("any"), files), "any")
    except InvalidInput:
        return
    check(found.name, PROJECT_FILE.parse(found.text, "any.yaml")[1])


def test_the_command_writes_the_file_and_says_what_to_do_next(tmp_path: Path) -> None:
    folder = _project(tmp_path / "bolts", DETECTION)
    told = CliRunner().invoke(app, ["import", "tango", str(folder), "-o", str(tmp_path / "out.yaml")])
    assert told.exit_code == 0, told.output
    assert "milonga datasets import" in told.output and "milonga apply -f" in told.output
    again = CliRunner().invoke(app, ["import", "tango", str(folder), "-o", str(tmp_path / "out.yaml"), "--json"])
    assert again.exit_code != 0
    other = CliRunner().invoke(app, ["import", "tango", str(folder), "-o", str(tmp_path / "two.yaml"), "--json"])
    assert json.loads(other.output)["name"] == "bolts"
