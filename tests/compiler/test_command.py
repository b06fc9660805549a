"""The command that people run on a device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from milonga.pictures import normalise
from milonga_compiler.__main__ import main
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.parity import Labelled
from milonga_compiler.pictures import Scaling
from PIL import Image

from tests.compiler import foreign
from tests.compiler.engines_here import need
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
    # A name that stands in the URL at which it is served, and that the other bundle has too.
    assert old["project"] == new["project"] == network[0].stem


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "magic/int8", *SCALED], "magic/int8"),
        (["--target", "onnxruntime/int8"], "--mean"),
        (["--target", "onnxruntime/int8", "--calibration", "nowhere.npz", *SCALED], "nowhere.npz"),
        (["--target", "onnxruntime/int8", "--like", "nowhere"], "nowhere"),
        (["--target", "onnxruntime/int8", "--mean=0,0,0", "--std=0,1,1"], "above 0"),
        (["--target", "onnxruntime/int8", "--classes-file", "nowhere.txt", *SCALED], "no file of names"),
        (["--target", "onnxruntime/int8", "--calibration", str(Path(__file__).parent), *SCALED], "holds no pictures"),
        (["--target", "onnxruntime/int8", "--calibration", __file__, *SCALED], "numpy.savez"),
        (["--target", "onnxruntime/int8", "--output", "/proc/out", *SCALED], "name a folder where you may write"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--threads=0"],
        ["--max-lost-points=nan"],
        ["--max-lost-points=-1"],
        ["--size=-3"],
        ["--mean=nan,0,0"],
        ["--std=a,b,c"],
    ],
)
def test_numbers_that_mean_nothing_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["any.onnx", "--target", "onnxruntime/fp32", "--calibration", "any", "--output", "any", *arguments])
    assert ended.value.code == 2 and " is not " in capsys.readouterr().err


def test_nothing_but_a_bundle_is_replaced(
    network: tuple[Path, Labelled], arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network, or a folder of pictures, that was named by mistake is not lost."""
    sent, folder = tmp_path / "sent.onnx", tmp_path / "pictures"
    sent.write_bytes(network[0].read_bytes())
    folder.mkdir()
    (folder / "1.png").write_bytes(b"a picture")
    build = [str(sent), "--target", "onnxruntime/fp32", "--calibration", str(arrays), *SCALED]
    assert main([*build, "--output", str(sent)]) == 2 and "is a file; name a new folder" in capsys.readouterr().err
    assert main([*build, "--output", str(folder)]) == 2 and "is no bundle; name a new folder" in capsys.readouterr().err
    assert sent.read_bytes() == network[0].read_bytes() and (folder / "1.png").read_bytes() == b"a picture"
    again = [*build, "--output", str(tmp_path / "out")]
    assert main(again) == main(again) == 0


@pytest.fixture
def crashing_ncnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "crash"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setenv("MILONGA_ENGINE_NCNN_PYTHON", str(crash))


@pytest.mark.usefixtures("crashing_ncnn")
def test_a_build_that_is_refused_leaves_the_bundle_before_it_and_what_was_logged_of_that(
    network: tuple[Path, Labelled], arrays: Path, tmp_path: Path
) -> None:
    build = [str(network[0]), "--calibration", str(arrays), "--output", str(tmp_path / "out"), *SCALED]
    assert main([*build, "--target", "onnxruntime/fp32"]) == 0
    digest, before = verify_bundle(tmp_path / "out").digest, (tmp_path / "out.log").read_text()
    assert main([*build, "--target", "ncnn/fp32"]) == 1
    assert verify_bundle(tmp_path / "out").digest == digest
    kept, after = (tmp_path / "out.log").read_text().split("\n\n")
    assert f"{kept}\n" == before and "VERIFIED" in kept
    assert after.partition("] ")[2].startswith("building ncnn/fp32") and "crashed" in after


def test_a_missing_engine_is_named_before_the_network_is_read(
    arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILONGA_ENGINE_NCNN_PYTHON", str(tmp_path / "nowhere"))
    where = ["--calibration", str(arrays), "--output", str(tmp_path / "out")]
    assert main([str(tmp_path / "large.onnx"), "--target", "ncnn/fp32", *where]) == 2
    assert "MILONGA_ENGINE_NCNN_PYTHON" in capsys.readouterr().err and not (tmp_path / "out.log").exists()


@pytest.mark.usefixtures("crashing_ncnn")
def test_a_build_that_is_refused_says_what_to_try_next(
    network: tuple[Path, Labelled], arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--calibration", str(arrays), "--output", str(tmp_path / "out"), *SCALED]
    assert main([str(network[0]), "--target", "ncnn/fp32", *where]) == 1
    said = capsys.readouterr().out
    assert "crashed (SIGSEGV)" in said and "next: name another target" in said


def test_a_file_that_is_no_network_is_explained(
    arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--calibration", str(arrays), "--output", str(tmp_path / "out"), *SCALED]
    assert main([str(arrays), "--target", "onnxruntime/fp32", *where]) == 2
    assert "is not ONNX" in capsys.readouterr().err


def _colours(folder: Path, names: tuple[str, ...]) -> Path:
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((foreign.SIZE_PX, foreign.SIZE_PX, 3), 40 * number, dtype=np.uint8)
            pixels[..., index] = 255 - number
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_network_as_torch_exports_it_is_built_with_the_names_of_the_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = foreign.classifier(tmp_path / "sent.onnx")
    pictures = _colours(tmp_path / "pictures", ("bolt", "nut", "screw"))
    where = ["--calibration", str(pictures), "--output", str(tmp_path / "out"), *SCALED]
    assert main([str(sent), "--target", "onnxruntime/fp32", *where]) == 0
    said = capsys.readouterr()
    assert "onnxruntime/fp32: VERIFIED" in said.out and "the network's" in said.out
    manifest = verify_bundle(tmp_path / "out").manifest
    assert manifest["classes"] == ["bolt", "nut", "screw"] and manifest["input"]["resize"] == "stretch"


def test_a_detector_that_tells_each_object_once_is_built_to_suppress_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = foreign.detector(tmp_path / "sent.onnx", end_to_end=True)
    pictures = _colours(tmp_path / "pictures", ("any",))
    where = ["--calibration", str(pictures), "--output", str(tmp_path / "out"), "--classes", "bolt,nut,screw", *SCALED]
    assert main([str(sent), "--target", "onnxruntime/fp32", *where]) == 0, capsys.readouterr().err
    manifest = verify_bundle(tmp_path / "out").manifest
    assert manifest["task"] == "detection" and manifest["postprocess"]["iou_threshold"] == 1.0


def test_folders_that_do_not_name_all_classes_are_refused(
    network: tuple[Path, Labelled], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = _colours(tmp_path / "pictures", ("one", "two"))
    where = ["--calibration", str(pictures), "--output", str(tmp_path / "out"), *SCALED]
    assert main([str(network[0]), "--target", "onnxruntime/fp32", *where]) == 2
    assert "knows 10 classes, and 2 folders of pictures there are" in capsys.readouterr().err


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


def test_a_full_disk_is_told_as_such_where_a_converter_keeps_it_to_itself(
    network: tuple[Path, Labelled], arrays: Path, tmp_path: Path
) -> None:
    """pnnx leaves files that are cut off: ncnn could not load them, and nobody would have known why."""
    need("ncnn")
    small = tmp_path / "small"
    small.mkdir()
    mounting = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=90k small "$0" && exec "$@"', str(small)]
    if subprocess.run([*mounting, "true"], check=False, capture_output=True).returncode:
        pytest.skip("making a disk that is soon full needs root")
    build = [sys.executable, "-m", "milonga_compiler", "build", str(network[0]), "--target", "ncnn/fp32"]
    where = ["--calibration", str(arrays), "--output", str(small / "out"), *SCALED]
    done = subprocess.run([*mounting, *build, *where], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "error: the disk is full" in done.stderr, (done.stdout, done.stderr)
