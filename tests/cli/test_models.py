"""milonga models import and export, against a real gRPC server."""

from __future__ import annotations

from pathlib import Path

import pytest
from milonga_hub.blobs import digest_of_file
from milonga_hub.runs.models import Trigger

from tests.cli.conftest import Cli
from tests.compiler.foreign import classifier

SCALING = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return classifier(tmp_path / "of mine.onnx")


def test_a_model_is_sent_checked_and_queued_to_be_built(cli: Cli, file: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("bolt\nnut\n0\n")
    said = cli("models", "import", "digits", str(file), "--classes-file", str(names), *SCALING, "--json").json
    assert said["imported"]["classes"] == ["bolt", "nut", "0"]
    assert said["imported"]["digest"] == digest_of_file(file)
    assert said["imported"]["by"].endswith("(local)")
    # Of the classes of the project's data set.
    assert said["imported"]["notes"][0].startswith("The network does not know 1, ")
    run = cli.hub.runs.get(said["run"]["name"])
    assert run.trigger is Trigger.IMPORT and [stage.name for stage in run.stages] == ["prepare", "build"]
    assert run.imported is not None and cli.hub.blobs.read(run.imported.digest) == file.read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("of mine.onnx", ["--classes", "a,b"], "of_mine.onnx tells 3 classes apart, and 2 are named"),
        ("other.txt", [], "neither an .onnx file nor a .pt"),
        ("other.pt", [], "it runs whatever code is in it"),
        ("of mine.onnx", ["--data", "nowhere"], "there is no data set 'nowhere'"),
        ("of mine.onnx", ["--mean", "1,2"], "--mean '1,2' is not three numbers"),
        ("of mine.onnx", ["--resize", "crop"], "it is stretch or letterbox"),
        ("of mine.onnx", ["--classes", "a", "--classes-file", "b"], "not both"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_what_to_do(
    cli: Cli, file: Path, name: str, options: list[str], words: str
) -> None:
    file.with_name(name).write_bytes(file.read_bytes())
    before = len(cli.hub.runs.list()[0])
    said = cli("models", "import", "digits", str(file.with_name(name)), *options)
    assert said.code in (2, 3, 4) and said.out == ""
    assert words in said.err
    assert len(cli.hub.runs.list()[0]) == before
