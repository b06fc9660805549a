"""milonga models import and export, against a real gRPC server."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from milonga_hub.blobs import digest_of_file
from milonga_hub.callers import Role
from milonga_hub.runs.models import Trigger
from onnx import numpy_helper

from tests.cli.conftest import Cli
from tests.compiler.foreign import classifier
from tests.web.people import signed_in

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


def test_weights_that_lie_beside_the_file_are_sent_with_it(cli: Cli, file: Path, tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    apart = tmp_path / "apart" / "of mine.onnx"
    onnx.save(
        onnx.load(str(file)), str(apart), save_as_external_data=True, size_threshold=0, location="of mine.onnx.data"
    )
    said = cli("models", "import", "digits", str(apart), "--classes", "bolt,nut,0", *SCALING, "--json").json
    assert said["imported"]["file_name"] == "of_mine.onnx"
    kept = onnx.load_from_string(cli.hub.blobs.read(said["imported"]["digest"]))
    whole = onnx.load(str(file)).graph
    assert [*kept.graph.node] == [*whole.node]
    pairs = zip(kept.graph.initializer, whole.initializer, strict=True)
    assert all(numpy_helper.to_array(ours).tobytes() == numpy_helper.to_array(sent).tobytes() for ours, sent in pairs)
    apart.with_name("of mine.onnx.data").unlink()
    refused = cli("models", "import", "digits", str(apart), "--classes", "bolt,nut,0", *SCALING)
    assert refused.code == 2 and "of mine.onnx.data is not beside it" in refused.err.replace("\n", " ")


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


def test_a_model_is_brought_on_a_page_with_what_its_file_does_not_say(cli: Cli, file: Path) -> None:
    ana = signed_in(cli.hub)
    assert 'href="/new/models?project=digits"' in ana.get("/projects/digits").text
    page = ana.get("/new/models?project=digits").text
    assert "<option selected>digits</option>" in page and "/static/model.js" in page and "trust_pickle" in page
    said = {"file_name": "of mine.onnx", "classes": ["bolt", "nut", "0"], "mean": [0.5] * 3, "std": [0.25] * 3}
    taken = ana.post("/api/v1/projects/digits/models:import", params=said, content=file.read_bytes())
    assert taken.status_code == 201, taken.text
    assert taken.json()["imported"]["classes"] == ["bolt", "nut", "0"] and taken.json()["imported"]["by"] == "ana"
    assert ana.get(f"/runs/digits/{taken.json()['run']['number']}").status_code == 200
    for wrong, words in (
        ({"file_name": "other.txt"}, "neither an .onnx file nor a .pt"),
        ({"file_name": "other.pt"}, "it runs whatever code is in it"),
        ({"file_name": "of mine.onnx", "dataset": "nowhere"}, "there is no data set 'nowhere'"),
        ({"file_name": "of mine.onnx", "mean": "wide"}, "mean"),
    ):
        refused = ana.post("/api/v1/projects/digits/models:import", params=wrong, content=b"x")
        assert 400 <= refused.status_code < 500 and words in refused.json()["error"]["message"]
    assert list((cli.hub.folder / "uploads-models-http").iterdir()) == []


def test_only_operators_find_the_page_and_only_admins_may_trust_a_pickle(cli: Cli) -> None:
    assert signed_in(cli.hub, "ben", Role.VIEWER).get("/new/models").status_code == 403
    kim = signed_in(cli.hub, "kim", Role.OPERATOR)
    assert "trust_pickle" not in kim.get("/new/models").text
    said = {"file_name": "mine.pt", "trust_pickle": "true"}
    refused = kim.post("/api/v1/projects/digits/models:import", params=said, content=b"x")
    assert refused.status_code == 403 and "only administrators" in refused.text
