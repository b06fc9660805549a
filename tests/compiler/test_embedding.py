"""A classifier's second output tells what its last layer but one makes of a picture, and leaves the first as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from milonga_compiler.backends import backend, in_process
from milonga_compiler.backends.onnxruntime import OnnxRuntimeBackend, halved
from milonga_compiler.embedding import DIMENSIONS, OUTPUT, embed, signs
from milonga_compiler.engines import ENGINES, Precision
from milonga_compiler.quantize import quantize_variants
from milonga_compiler.target import Target
from onnx import TensorProto, helper, numpy_helper

from tests.compiler.detector import write_branches
from tests.compiler.engines_here import need, runs_here
from tests.compiler.networks import Pictures, digits, write_network

onnxruntime = OnnxRuntimeBackend()


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return digits(200)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    write_network(path, digits())
    return path


def _made(kind: str, network: Path, pictures: Pictures, folder: Path) -> Path:
    model = folder / "model.onnx"
    if kind == "fp16":
        halved(network, model)
    elif kind == "int8":
        model = folder / next(quantize_variants(network, folder, pictures.normalised[:32])).model_file
    else:
        model.write_bytes(network.read_bytes())
    return model


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_answers_stay_as_they_were(kind: str, network: Path, pictures: Pictures, tmp_path: Path) -> None:
    model, seen = _made(kind, network, pictures, tmp_path), pictures.normalised
    before = onnxruntime.run(model, seen, 1)
    assert embed(model)
    after, embeddings = onnxruntime.outputs(model, seen, 1)
    # An engine may keep halves as floats in other places than before.
    assert np.abs(after - before).max() <= (0.05 if kind == "fp16" else 1e-4)
    assert embeddings.shape == (200, DIMENSIONS) and embeddings.dtype == np.float32
    # One picture at a time, as devices ask.
    assert np.allclose(onnxruntime.outputs(model, seen[:1], 1)[1], embeddings[:1], atol=1e-3)


def test_pictures_that_the_layer_tells_apart_are_as_far_from_each_other(
    network: Path, pictures: Pictures, tmp_path: Path
) -> None:
    model = _made("fp32", network, pictures, tmp_path)
    embed(model)
    embeddings = onnxruntime.outputs(model, pictures.normalised, 1)[1]
    whole = onnx.load(str(network))
    whole.graph.output.insert(0, helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 1024]))
    onnx.save(whole, str(tmp_path / "features.onnx"))
    features = onnxruntime.run(tmp_path / "features.onnx", pictures.normalised, 1)
    pairs = np.random.default_rng(0).integers(0, 200, (2, 500))
    far, near = (np.linalg.norm(one[pairs[0]] - one[pairs[1]], axis=1) for one in (features, embeddings))
    assert np.corrcoef(far, near)[0, 1] > 0.5


def test_the_reference_engine_gives_the_same(network: Path, pictures: Pictures, tmp_path: Path) -> None:
    model = _made("fp32", network, pictures, tmp_path)
    embed(model)
    few = pictures.normalised[:3]
    for ours, theirs in zip(
        in_process("reference").outputs(model, few, 1), onnxruntime.outputs(model, few, 1), strict=True
    ):
        assert np.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("task", ["classifier", "detector"])
@pytest.mark.parametrize("name", sorted(name for name, engine in ENGINES.items() if engine.embeds))
def test_every_engine_that_embeds_gives_the_same(
    name: str, task: str, network: Path, pictures: Pictures, tmp_path: Path
) -> None:
    need(name)
    engine, seen = in_process(name) if ENGINES[name].takes_onnx else backend(name), pictures.normalised[:3]
    source = network if task == "classifier" else write_branches(tmp_path / "branches.onnx")
    built = next(engine.build(source, Target(name, Precision.FP32), tmp_path, None))
    assert runs_here(name) and engine.embed(tmp_path / built.model_file)
    first, embeddings = engine.outputs(tmp_path / built.model_file, seen, 1)
    expected = tmp_path / "expected.onnx"
    expected.write_bytes(source.read_bytes())
    assert embed(expected)
    wanted = onnxruntime.outputs(expected, seen, 1)
    assert embeddings.shape == (3, DIMENSIONS)
    assert np.allclose(embeddings, wanted[1], atol=1e-2 * np.abs(wanted[1]).max())
    assert np.abs(first - wanted[0]).max() < 1e-3


def test_a_detector_is_told_by_the_means_of_the_map_that_its_branches_read(pictures: Pictures, tmp_path: Path) -> None:
    model = write_branches(tmp_path / "model.onnx")
    whole = onnx.load(str(model))
    whole.graph.output.insert(0, helper.make_tensor_value_info("neck", TensorProto.FLOAT, ["batch", 16, 4, 4]))
    onnx.save(whole, str(tmp_path / "neck.onnx"))
    maps = onnxruntime.run(tmp_path / "neck.onnx", pictures.normalised[:5], 1)
    assert embed(model)
    embeddings = onnxruntime.outputs(model, pictures.normalised[:5], 1)[1]
    assert np.allclose(embeddings, maps.mean(axis=(2, 3)) @ signs(16), atol=1e-4)


def _without_a_last_layer(path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["maps"]),
            helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ],
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.ones((10, 3, 1, 1), dtype=np.float32), "kernel")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def test_a_network_whose_last_layer_is_another_stays_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    _without_a_last_layer(path)
    before = path.read_bytes()
    assert not embed(path)
    assert path.read_bytes() == before


def test_a_network_that_has_the_output_gets_no_second_one(network: Path, pictures: Pictures, tmp_path: Path) -> None:
    model = _made("fp32", network, pictures, tmp_path)
    assert embed(model) and not embed(model)
    assert [one.name for one in onnx.load(str(model)).graph.output] == ["logits", OUTPUT]
