"""The command that people run on a device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from milonga.pictures import normalise
from milonga_compiler.__main__ import main
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.parity import Labelled
from milonga_compiler.pictures import Scaling
from PIL import Image

from tests.compiler.networks import MEAN, STD, Pictures

SCALED = [f"--{name}={','.join(map(str, values))}" for name, values in (("mean", MEAN), ("std", STD))]


@pytest.fixture
def arrays(pictures: Pictures, tmp_path: Path) -> Path:
    path = tmp_path / "pictures.npz"
    np.savez(path, x=pictures.images[600:800], y=pictures.labels[600:800])
    return path


def _folder(pictures: Pictures, folder: Path, count: int = 120) -> Path:
    for index in range(600, 600 + count):
        of_class = folder / str(pictures.labels[index])
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.images[index].transpose(1, 2, 0)).save(of_class / f"{index}.png")
    return folder


def test_a_person_can_build_from_arrays(
    network: tuple[Path, Labelled], arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--calibration", str(arrays), "--output", str(tmp_path / "out"), "--max-lost-points", "3", *SCALED]
    assert main([str(network[0]), "--target", "onnxruntime/int8", "--json", *where]) == 0
    said = json.loads(capsys.readouterr().out)
    bundle = verify_bundle(tmp_path / "out")
    assert said["bundle"] == bundle.digest and said["state"] == "VERIFIED" and said["accuracy"] > 0.8
    assert bundle.manifest["input"]["mean"] == MEAN and len(bundle.manifest["classes"]) == 10


def test_a_person_can_build_from_a_folder_of_pictures_like_another_bundle(
    network: tuple[Path, Labelled], arrays: Path, pictures: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["--calibration", str(arrays), "--output", str(tmp_path / "fp32"), *SCALED]
    assert main([str(network[0]), "--target", "onnxruntime/fp32", *first]) == 0
    again = ["--calibration", str(_folder(pictures, tmp_path / "pictures")), "--output", str(tmp_path / "int8")]
    like = ["--like", str(tmp_path / "fp32"), "--max-lost-points", "3"]
    assert main([str(network[0]), "--target", "onnxruntime/int8", *again, *like]) == 0, capsys.readouterr()
    assert "onnxruntime/int8: VERIFIED" in capsys.readouterr().out
    old, new = (verify_bundle(tmp_path / name).manifest for name in ("fp32", "int8"))
    assert old["input"] == new["input"] and old["classes"] == new["classes"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "magic/int8", *SCALED], "magic/int8"),
        (["--target", "onnxruntime/int8"], "--mean"),
        (["--target", "onnxruntime/int8", "--calibration", "nowhere.npz", *SCALED], "nowhere.npz"),
        (["--target", "onnxruntime/int8", "--like", "nowhere"], "nowhere"),
    ],
)
def test_input_that_cannot_be_used_is_explained(
    arguments: list[str], said: str, network: tuple[Path, Labelled], arrays: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    where = ["--calibration", str(arrays), "--output", str(tmp_path / "out")]
    assert main([str(network[0]), *where, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_network_is_explained(
    arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--calibration", str(arrays), "--output", str(tmp_path / "out"), *SCALED]
    assert main([str(arrays), "--target", "onnxruntime/fp32", *where]) == 2
    assert "not an ONNX file" in capsys.readouterr().err


def test_a_picture_of_an_unknown_class_is_named(
    network: tuple[Path, Labelled], pictures: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _folder(pictures, tmp_path / "pictures", count=40)
    (folder / "4").rename(folder / "teapot")
    where = ["--calibration", str(folder), "--output", str(tmp_path / "fp32"), *SCALED]
    first = tmp_path / "known.npz"
    np.savez(first, x=pictures.images[600:640])
    known = ["--calibration", str(first), "--output", str(tmp_path / "like"), *SCALED]
    assert main([str(network[0]), "--target", "onnxruntime/fp32", *known]) == 0
    assert main([str(network[0]), "--target", "onnxruntime/fp32", "--like", str(tmp_path / "like"), *where]) == 2
    assert "teapot" in capsys.readouterr().err


def test_scaling_is_the_same_arithmetic_as_in_training(pictures: Pictures) -> None:
    ours = Scaling(16, MEAN, STD).normalise(pictures.images[:8])
    assert np.array_equal(ours, normalise(pictures.images[:8], MEAN, STD))
