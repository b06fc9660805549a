"""A detector's bundle, served over real HTTP: boxes in pixels of the pictures that were sent."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from milonga import detections
from milonga.inputs import Input, Resize
from milonga_agent.answers import answering
from milonga_agent.errors import BadBundle
from milonga_agent.served import Served
from milonga_compiler.bundle import write_bundle
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.agent.clients import asking

SIZE_PX, NAMES = 64, ["bolt", "nut"]
# (class, score, box in the network's input): two objects, and a worse copy of the first.
OBJECTS = [(1, 0.91, (8.0, 20.0, 24.0, 36.0)), (0, 0.6, (30.0, 24.0, 60.0, 44.0)), (1, 0.5, (9.0, 21.0, 25.0, 37.0))]


def _maps() -> np.ndarray:
    """Return the output of a detector that sees the objects, each from an anchor of its own, and little else."""
    maps = np.full((1, 4 + len(NAMES), detections.anchor_count(SIZE_PX)), -8.0, dtype=np.float32)
    maps[0, :4] = 1.0
    middles = np.arange(SIZE_PX // 8) + 0.5
    for number, (kind, score, box) in enumerate(OBJECTS):
        row, column = 3, number + 1
        x, y = middles[column], middles[row]
        cells = np.array(box) / 8
        maps[0, :4, row * len(middles) + column] = (x - cells[0], y - cells[1], cells[2] - x, cells[3] - y)
        maps[0, 4 + kind, row * len(middles) + column] = np.log(score / (1 - score))
    return maps


def _write_network(path: Path, maps: np.ndarray) -> None:
    """Write a network that makes these maps of any picture: it adds nothing times the picture to them."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "nothing"], ["none"]),
        helper.make_node("Squeeze", ["none", "axis"], ["flat"]),
        helper.make_node("Add", ["flat", "constant"], ["maps"]),
    ]
    tensors = [
        numpy_helper.from_array(np.zeros(1, dtype=np.float32), "nothing"),
        numpy_helper.from_array(np.array([3], dtype=np.int64), "axis"),
        numpy_helper.from_array(maps, "constant"),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", *maps.shape[1:]])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def _bundle(folder: Path, **entries: Any) -> Path:
    maps = _maps()
    _write_network(folder / "model.onnx", maps)
    np.save(folder / "in.npy", np.zeros((2, 3, SIZE_PX, SIZE_PX), dtype=np.float32))
    np.save(folder / "out.npy", np.repeat(maps, 2, axis=0))
    manifest = {
        "task": "detection", "project": "parts", "model_version": "models/parts/versions/3", "classes": NAMES,
        "engine": "onnxruntime", "precision": "fp32", "model_file": "model.onnx",
        "input": Input(SIZE_PX, resize=Resize.LETTERBOX).described(),
        "output": {"name": "maps", "shape": list(maps.shape), "bins": 1, "strides": list(detections.STRIDES)},
        "postprocess": detections.Postprocess().described(),
        "probe": {"input_file": "in.npy", "expected_file": "out.npy", "max_abs_error": 1e-3},
    }  # fmt: skip
    sources = {name: folder / name for name in ("model.onnx", "in.npy", "out.npy")}
    return write_bundle(folder / "bundle", {**manifest, **entries}, sources).folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(_bundle(tmp_path_factory.mktemp("detector")), threads=1)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with asking(served) as client:
        yield client


def _ask(client: httpx.Client, *sizes: tuple[int, int], outputs: Any = None) -> dict[str, Any]:
    data = []
    for size in sizes:
        buffer = io.BytesIO()
        Image.new("RGB", size, (90, 120, 10)).save(buffer, "PNG")
        data.append(base64.b64encode(buffer.getvalue()).decode())
    picture = {"name": "picture", "shape": [len(data)], "datatype": "BYTES", "data": data}
    wanted = {} if outputs is None else {"outputs": outputs}
    response = client.post("/v2/models/parts/infer", json={"inputs": [picture], **wanted})
    assert response.status_code == 200, response.text
    return {one["name"]: one for one in response.json()["outputs"]}


def test_boxes_in_the_padding_around_a_picture_are_not_told() -> None:
    manifest = {
        "task": "detection", "classes": NAMES, "input": {"size_px": SIZE_PX}, "output": {"strides": list(detections.STRIDES)},
        "postprocess": detections.Postprocess().described(),
    }  # fmt: skip
    # Scaled to the input, the picture lies in rows 28 to 36.
    _, line = Input(SIZE_PX, resize=Resize.LETTERBOX).place(Image.new("RGB", (64, 8)))
    lower = _maps()
    lower[0, 1, :], lower[0, 3, :] = -2.0, 4.0  # And all boxes in rows 44 to 60.
    values = answering(manifest).answer(lower, [line]).values
    assert (
        values["count"].tolist() == [0] and len(values["boxes"]) == len(values["scores"]) == len(values["class"]) == 0
    )


def test_boxes_are_in_pixels_of_the_picture_that_was_sent(client: httpx.Client) -> None:
    found = _ask(client, (SIZE_PX, SIZE_PX), (256, 128))
    assert found["count"] == {"name": "count", "datatype": "INT32", "shape": [2], "data": [2, 2]}
    assert found["class"]["data"] == ["nut", "bolt"] * 2 and found["boxes"]["shape"] == [4, 4]
    assert np.allclose(found["scores"]["data"], [0.91, 0.6] * 2, atol=1e-4)
    boxes = np.reshape(found["boxes"]["data"], (4, 4))
    assert np.allclose(boxes[:2], [OBJECTS[0][2], OBJECTS[1][2]], atol=1e-3)
    # A quarter of the size, with 16 pixels of grey above and below.
    moved = np.array([OBJECTS[0][2], OBJECTS[1][2]]) - [0, 16, 0, 16]
    assert np.allclose(boxes[2:], moved * 4, atol=1e-2)


def test_a_tensor_gets_boxes_in_its_own_pixels(client: httpx.Client) -> None:
    tensor = np.zeros((1, 3, SIZE_PX, SIZE_PX))
    image = {"name": "image", "shape": list(tensor.shape), "datatype": "FP32", "data": tensor.ravel().tolist()}
    said = client.post("/v2/models/parts/infer", json={"inputs": [image]}).json()["outputs"]
    boxes = next(one for one in said if one["name"] == "boxes")
    assert np.allclose(boxes["data"], [*OBJECTS[0][2], *OBJECTS[1][2]], atol=1e-3)


def test_binary_outputs_are_little_endian(client: httpx.Client) -> None:
    binary = {"parameters": {"binary_data": True}}
    picture = io.BytesIO()
    Image.new("RGB", (SIZE_PX, SIZE_PX)).save(picture, "PNG")
    body = {
        "inputs": [
            {
                "name": "picture",
                "shape": [1],
                "datatype": "BYTES",
                "data": [base64.b64encode(picture.getvalue()).decode()],
            }
        ],
        "outputs": [{"name": "count", **binary}, {"name": "scores", **binary}],
    }
    response = client.post("/v2/models/parts/infer", json=body)
    tail = response.content[int(response.headers["Inference-Header-Content-Length"]) :]
    assert np.frombuffer(tail[:4], "<i4").tolist() == [2]
    assert np.allclose(np.frombuffer(tail[4:], "<f4"), [0.91, 0.6], atol=1e-4)


def test_the_server_describes_its_boxes(client: httpx.Client) -> None:
    outputs = client.get("/v2/models/parts").json()["outputs"]
    assert {one["name"]: (one["datatype"], one["shape"]) for one in outputs} == {
        "count": ("INT32", [-1]), "boxes": ("FP32", [-1, 4]), "scores": ("FP32", [-1]), "class": ("BYTES", [-1]),
    }  # fmt: skip
    wrong = client.post("/v2/models/parts/infer", json={"inputs": [], "outputs": [{"name": "logits"}]})
    assert wrong.status_code == 400


def test_telemetry_counts_boxes(client: httpx.Client, served: Served) -> None:
    served.window.take()
    _ask(client, (SIZE_PX, SIZE_PX), (100, 30))
    window = served.window.take()
    assert window["request_count"] == 1 and window["class_counts"] == [2, 2]
    assert sum(window["confidence"]["counts"]) == 4 and window["confidence"]["counts"][18] == 2
    assert sum(window["inputs"]["brightness"]["counts"]) == 2


def test_the_probe_holds_raw_outputs_against_those_expected(tmp_path: Path, served: Served) -> None:
    assert served.probe() < 1e-3
    other = Served(_bundle(tmp_path, probe={"input_file": "in.npy", "expected_file": "in.npy", "max_abs_error": 1}), 1)
    with pytest.raises(BadBundle, match="where"):
        other.probe()


def test_nothing_found_is_an_empty_answer(served: Served) -> None:
    answer = served._answering.answer(np.full_like(_maps(), -9.0), [served._input.placement(10, 10)])
    assert answer.values["count"].tolist() == [0] and answer.values["boxes"].shape == (0, 4)
    assert answer.values["class"] == [] and json.dumps(answer.values["scores"].tolist()) == "[]"


def test_a_task_that_this_agent_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match=r"knows no task 'pose'; it knows classification, detection; update the agent"):
        Served(_bundle(tmp_path, task="pose"), 1)
