"""The program that is written for a bundle answers, in a process of its own and without ours, as the agent does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from milonga_agent.served import Served
from milonga_compiler.backends import backend
from milonga_compiler.cli import main
from milonga_compiler.engines import ENGINES
from milonga_compiler.environments import interpreter
from milonga_compiler.examples import example as text_of
from PIL import Image

from tests.agent.bundles import example
from tests.agent.test_boxes import _bundle as detector
from tests.compiler.engines_here import need

# Ours cannot be imported in there: what a user's machine lacks.
_WITHOUT_OURS = """
import runpy, sys
for name in ("milonga", "milonga_agent", "milonga_compiler", "milonga_hub"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _pillow_alone(folder: Path) -> Path:
    """Return a folder from which an environment without Pillow can import it."""
    folder.mkdir()
    installed = Path(PIL.__file__).parent
    for part in (installed, installed.parent / "pillow.libs"):
        if part.exists():
            (folder / part.name).symlink_to(part)
    return folder


def _told(
    program: Path, picture: Path, bundle: Path, python: str = sys.executable, packages: Path | None = None
) -> list[list[str]]:
    command = [python, "-c", _WITHOUT_OURS, str(program), str(picture), "--bundle", str(bundle)]
    given = {**os.environ, "PYTHONPATH": str(packages)} if packages else None
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=given)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "reference"])
def test_the_program_tells_the_classes_that_the_agent_tells(tmp_path: Path, engine: str) -> None:
    made = example(tmp_path, engine)
    program, picture = tmp_path / "example.py", tmp_path / "picture.png"
    assert main(["example", str(made.bundle.folder), "--output", str(program)]) == 0
    digit = Image.fromarray(made.pictures.images[3].transpose(1, 2, 0)).resize((50, 40))
    digit.save(picture)
    answered = Served(made.bundle.folder, 1).of_pictures([picture.read_bytes()]).values
    rows = _told(program, picture, made.bundle.folder)
    assert rows[0][0] == answered["class"][0]
    expected = sorted(answered["probabilities"][0], reverse=True)[:5]
    np.testing.assert_allclose([float(row[1]) for row in rows], expected, atol=2e-6)


def test_the_program_for_tvm_tells_what_the_network_does(tmp_path: Path) -> None:
    need("tvm")
    made = example(tmp_path, "tvm")
    program, picture = tmp_path / "example.py", tmp_path / "picture.png"
    assert main(["example", str(made.bundle.folder), "--output", str(program)]) == 0
    picture.write_bytes(made.png(3))
    rows = _told(program, picture, made.bundle.folder, interpreter("tvm"), _pillow_alone(tmp_path / "pillow"))
    logits = made.pictures.normalised[3:4]
    powers = np.exp(np.float64(backend("onnxruntime").run(tmp_path / "model.onnx", logits, 1)[0]))
    expected = np.sort(powers / powers.sum())[::-1][:5]
    np.testing.assert_allclose([float(row[1]) for row in rows], expected, atol=1e-4)


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_every_engine_has_a_program_that_python_understands(tmp_path: Path, engine: str) -> None:
    compile(text_of(detector(tmp_path, engine=engine)), "example.py", "exec")


@pytest.mark.parametrize(("size", "mode"), [((256, 128), "RGB"), ((64, 64), "RGBA"), ((37, 90), "L")])
def test_the_program_tells_the_boxes_that_the_agent_tells(tmp_path: Path, size: tuple[int, int], mode: str) -> None:
    bundle = detector(tmp_path)
    program, picture = tmp_path / "example.py", tmp_path / "picture.png"
    assert main(["example", str(bundle), "--output", str(program)]) == 0
    Image.new(mode, size).save(picture)
    rows = _told(program, picture, bundle)
    answered = Served(bundle, 1).of_pictures([picture.read_bytes()]).values
    assert [row[0] for row in rows] == answered["class"] == ["nut", "bolt"]
    np.testing.assert_allclose([float(row[1]) for row in rows], answered["scores"], atol=1e-5)
    np.testing.assert_allclose([[float(side) for side in row[2:]] for row in rows], answered["boxes"], atol=0.01)


def test_what_is_no_picture_is_named_without_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, program = detector(tmp_path), tmp_path / "example.py"
    assert main(["example", str(bundle), "--output", str(program)]) == 0
    assert "pip install numpy pillow" in capsys.readouterr().out
    command = [sys.executable, str(program), str(tmp_path / "nowhere.png"), "--bundle", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "nowhere.png is no picture" in done.stderr and "Traceback" not in done.stderr


def test_a_broken_bundle_or_an_engine_without_an_example_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["example", str(tmp_path)]) == 2
    assert "manifest" in capsys.readouterr().err
    bundle = detector(tmp_path, engine="magic")
    assert main(["example", str(bundle)]) == 2
    assert "there is no example for magic; there are for litert, ncnn" in capsys.readouterr().err
