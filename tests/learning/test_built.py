"""What is measured and evaluated of a subnet is what its engine runs, in as many files as it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from milonga_compiler.backends import backend
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.errors import CompilerError
from milonga_compiler.target import Target
from milonga_hub.learning.built import built

from tests.compiler.engines_here import need
from tests.compiler.networks import Pictures, digits, write_network


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return digits(200)


@pytest.fixture
def onnx(tmp_path: Path, pictures: Pictures) -> Path:
    write_network(tmp_path / "one.onnx", Pictures(pictures.images, pictures.labels, train_count=150))
    return tmp_path / "one.onnx"


def test_an_engine_that_takes_onnx_is_given_the_file_itself(onnx: Path, pictures: Pictures) -> None:
    found = built(onnx, Target.parse("onnxruntime/fp32"), lambda: pictures.normalised[:8])
    assert found.model == onnx and found.files == {"model.onnx": onnx}


@pytest.mark.parametrize("name", ["onnxruntime/fp16", "onnxruntime/int8"])
def test_a_build_of_one_file_is_sent_alone_and_made_once(name: str, onnx: Path, pictures: Pictures) -> None:
    target = Target.parse(name)
    found = built(onnx, target, lambda: pictures.normalised[:8])
    assert list(found.files.values()) == [found.model]
    assert found.model.stat().st_size < 0.7 * onnx.stat().st_size
    made_at = found.model.stat().st_mtime_ns
    assert built(onnx, target, lambda: pictures.normalised[:8]) == found
    assert found.model.stat().st_mtime_ns == made_at


def test_a_build_of_several_files_is_sent_with_the_manifest_that_names_its_model(
    onnx: Path, pictures: Pictures
) -> None:
    need("openvino")
    found = built(onnx, Target.parse("openvino/fp32"), lambda: pictures.normalised[:8])
    assert {"manifest.json", found.model.name} < found.files.keys()
    assert verify_bundle(found.model.parent).manifest["model_file"] == found.model.name
    outputs = backend("openvino").run(found.model, pictures.normalised[:4], 1)
    assert np.abs(outputs - backend("onnxruntime").run(onnx, pictures.normalised[:4], 1)).max() < 1e-3


def test_what_an_engine_refuses_leaves_nothing_behind(tmp_path: Path, pictures: Pictures) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no network")
    with pytest.raises(CompilerError):
        built(tmp_path / "no.onnx", Target.parse("onnxruntime/fp16"), lambda: pictures.normalised[:8])
    assert [path.name for path in tmp_path.iterdir()] == ["no.onnx"]
