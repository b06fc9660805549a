"""Networks that cannot be built are refused before an engine sees them, or by the engine, saying why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milonga_compiler.backends import backend
from milonga_compiler.engines import ENGINES, Precision
from milonga_compiler.errors import BuildFailed
from milonga_compiler.network import fix_batch, read_network
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target
from onnx import helper

from tests.compiler.engines_here import need
from tests.compiler.odd_networks import write


def test_a_network_says_what_it_is(network: tuple[Path, Labelled]) -> None:
    found = read_network(network[0])
    assert (found.input_name, found.shape, found.batch, found.outputs) == ("image", (3, 16, 16), None, ("logits",))
    assert found.operators == {"Conv", "Relu", "Flatten", "Gemm"} and found.opset == 17


def test_a_network_with_its_batch_fixed_computes_the_same(network: tuple[Path, Labelled], tmp_path: Path) -> None:
    fixed = fix_batch(read_network(network[0]), tmp_path)
    assert read_network(fixed).batch == 1
    logits = backend("reference").run(fixed, network[1].pictures[:1], 1)
    assert np.abs(logits - network[1].logits[:1]).max() < 1e-4
    output = onnx.load(str(fixed)).graph.output[0].type.tensor_type.shape
    assert [axis.dim_value for axis in output.dim] == [1, 10]
    with pytest.raises(BuildFailed, match="exactly 1 pictures"):
        fix_batch(read_network(fixed), tmp_path, batch=4)


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("shape", [("batch", 3, None, None), ("batch", 3, "height", "width"), (1, 3, 8, "width")])
def test_open_sizes_are_refused_with_what_to_do(
    shape: tuple[int | str | None, ...], engine: str, tmp_path: Path
) -> None:
    model = write(tmp_path / "open.onnx", [helper.make_node("Relu", ["image"], ["logits"])], shape)
    need(engine)
    with pytest.raises(BuildFailed, match="only the batch may be: export it again"):
        list(backend(engine).build(model, Target(engine, ENGINES[engine].precisions[0]), tmp_path, None))


@pytest.mark.parametrize("opset", [5, 99])
def test_an_opset_that_nobody_knows_is_named(opset: int, tmp_path: Path) -> None:
    model = write(tmp_path / "odd.onnx", [helper.make_node("Relu", ["image"], ["logits"])], opset=opset)
    with pytest.raises(BuildFailed, match=f"opset {opset}.*opset_version=17"):
        read_network(model)


@settings(max_examples=60)
@given(st.integers(0, 99))
def test_a_file_that_was_cut_off_is_never_taken_for_a_whole_one(network: tuple[Path, Labelled], percent: int) -> None:
    whole = network[0].read_bytes()
    cut = network[0].with_name(f"cut-{percent}.onnx")
    cut.write_bytes(whole[: len(whole) * percent // 100])
    with pytest.raises(BuildFailed, match="whole ONNX file"):
        read_network(cut)


def test_weights_that_lie_elsewhere_are_taken_in_or_missed_by_name(
    network: tuple[Path, Labelled], tmp_path: Path
) -> None:
    (tmp_path / "built").mkdir()
    model = onnx.load(str(network[0]))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (built,) = backend("onnxruntime").build(path, Target("onnxruntime", Precision.FP32), tmp_path / "built", None)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BuildFailed, match=r"beside it.*weights\.bin"):
        read_network(path)
    alone = backend("onnxruntime").run(tmp_path / "built" / built.model_file, network[1].pictures, 1)
    assert np.abs(alone - network[1].logits).max() < 1e-4


def test_two_inputs_are_one_too_many(tmp_path: Path) -> None:
    model = onnx.load(str(write(tmp_path / "two.onnx", [helper.make_node("Add", ["image", "more"], ["logits"])])))
    model.graph.input.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8]))
    onnx.save(model, str(tmp_path / "two.onnx"))
    with pytest.raises(BuildFailed, match=r"one float32 input.*image, more"):
        read_network(tmp_path / "two.onnx")


def test_a_network_that_contradicts_itself_is_refused(network: tuple[Path, Labelled], tmp_path: Path) -> None:
    model = onnx.load(str(network[0]))
    model.graph.node[0].input[1] = "nothing"
    onnx.save(model, str(tmp_path / "broken.onnx"))
    with pytest.raises(BuildFailed, match="not valid ONNX"):
        read_network(tmp_path / "broken.onnx")


@pytest.mark.parametrize("engine", sorted(name for name in ENGINES if Precision.INT8 in ENGINES[name].precisions))
def test_int8_without_fitting_pictures_says_what_it_needs(
    engine: str, network: tuple[Path, Labelled], tmp_path: Path
) -> None:
    need(engine)
    target = Target(engine, Precision.INT8)
    for none in (None, network[1].pictures[:0]):
        with pytest.raises(BuildFailed, match="pictures to calibrate on; give some"):
            list(backend(engine).build(network[0], target, tmp_path, none))
    with pytest.raises(BuildFailed, match=r"\(3, 8, 8\), the network wants \(3, 16, 16\)"):
        list(backend(engine).build(network[0], target, tmp_path, network[1].pictures[:4, :, ::2, ::2]))
