"""The program that is written for a bundle answers, in a process of its own and without ours, as the agent does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from milonga_agent.served import Served
from milonga_compiler.cli import main
from PIL import Image

from tests.agent.bundles import example
from tests.agent.test_boxes import _bundle as detector

# Ours cannot be imported in there: what a user's machine lacks.
_WITHOUT_OURS = """
import runpy, sys
for name in ("milonga", "milonga_agent", "milonga_compiler", "milonga_hub"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _told(program: Path, picture: Path, bundle: Path) -> list[list[str]]:
    command = [sys.executable, "-c", _WITHOUT_OURS, str(program), str(picture), "--bundle", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
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


def test_a_broken_bundle_or_an_engine_without_an_example_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["example", str(tmp_path)]) == 2
    assert "manifest" in capsys.readouterr().err
    bundle = detector(tmp_path, engine="tvm")
    assert main(["example", str(bundle)]) == 2
    assert "there is no example for tvm; there are for litert, ncnn" in capsys.readouterr().err
