"""Requests of the Open Inference Protocol v2, answered by a real model in each engine over real HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from milonga.pictures import INPUTS
from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.pursuit import slowest_ms
from milonga_agent.runtimes import load
from milonga_agent.served import Served

from tests.agent.bundles import Example, example
from tests.agent.clients import asking
from tests.compiler.networks import SIZE_PX


@pytest.fixture(scope="module", params=["onnxruntime", "reference"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return example(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def served(made: Example) -> Served:
    return Served(made.bundle.folder, threads=1)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with asking(served) as client:
        yield client


def _ask(client: httpx.Client, inputs: list[dict[str, Any]], **more: Any) -> httpx.Response:
    return client.post("/v2/models/digits/infer", json={"inputs": inputs, **more})


def _picture(*pngs: bytes) -> dict[str, Any]:
    data = [base64.b64encode(png).decode() for png in pngs]
    return {"name": "picture", "shape": [len(data)], "datatype": "BYTES", "data": data}


def _output(response: httpx.Response, name: str) -> Any:
    assert response.status_code == 200, response.text
    return next(one for one in response.json()["outputs"] if one["name"] == name)


def test_real_pictures_get_their_right_class(client: httpx.Client, made: Example) -> None:
    indices = range(700, 720)
    answer = _output(_ask(client, [_picture(*(made.png(index) for index in indices))]), "class")
    labels = [str(made.pictures.labels[index]) for index in indices]
    assert sum(a == b for a, b in zip(answer["data"], labels, strict=True)) >= 18
    assert answer["shape"] == [20]


def test_a_picture_and_its_tensor_get_the_same_answer(client: httpx.Client, made: Example) -> None:
    tensor = made.pictures.normalised[700:701]
    image = {"name": "image", "shape": list(tensor.shape), "datatype": "FP32", "data": tensor.ravel().tolist()}
    of_tensor = _output(_ask(client, [image]), "logits")
    of_picture = _output(_ask(client, [_picture(made.png(700))]), "logits")
    assert np.allclose(of_tensor["data"], of_picture["data"], atol=1e-4)
    assert of_tensor["shape"] == [1, 10]


def test_binary_data_goes_both_ways(client: httpx.Client, made: Example) -> None:
    pngs = [made.png(700), made.png(701)]
    tail = b"".join(struct.pack("<I", len(png)) + png for png in pngs)
    entry = {"name": "picture", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "class"}]
    head = json.dumps({"inputs": [entry], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    response = client.post("/v2/models/digits/infer", content=head + tail, headers=headers)
    assert response.status_code == 200, response.text
    length = int(response.headers["Inference-Header-Content-Length"])
    probabilities = np.frombuffer(response.content[length:], dtype="<f4").reshape(2, 10)
    said = json.loads(response.content[:length])["outputs"]
    assert np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert [str(index) for index in probabilities.argmax(axis=1)] == said[1]["data"]


def test_the_server_describes_itself(client: httpx.Client) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/models/digits/ready").json()["ready"]
    described = client.get("/v2/models/digits").json()
    assert described["versions"] == ["1"]
    assert {one["name"] for one in described["inputs"]} == {"picture", "image"}
    assert client.get("/v2/models/digits/versions/1").json() == described


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "one input"),
        ([{"name": "picture", "shape": [1], "datatype": "BYTES", "data": ["!!"]}], "base64"),
        ([_picture(b"no picture")], "picture 0: not a picture that can be read: it is of no known format"),
        ([_picture(b"")], "empty"),
        ([{**_picture(b"x"), "shape": [2]}], "2"),
        ([{"name": "image", "shape": [1, 3, 9, 9], "datatype": "FP32", "data": [0.0] * 243}], f"{SIZE_PX}"),
        ([{"name": "image", "shape": [1, 2], "datatype": "FP32", "data": [1.0]}], "does not fill"),
        ([{"name": "image", "shape": "x", "datatype": "FP32", "data": []}], "list of sizes"),
        ([{"name": "image", "shape": [999, 3, 16, 16], "datatype": "FP32", "data": []}], "at most 256"),
        ([{"name": "tensor", "shape": [1], "datatype": "FP32", "data": [1]}], "no input 'tensor'"),
        (["x"], "object"),
        ([{**_picture(b"x"), "parameters": [1]}], "parameters must be an object"),
        ([{"name": "picture", "shape": [1], "datatype": "BYTES", "data": ["é"]}], "base64"),
    ],
)
def test_bad_input_is_answered_with_what_is_wrong(client: httpx.Client, inputs: Any, said: str) -> None:
    response = _ask(client, inputs)
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_other_mistakes_are_answered_too(client: httpx.Client, made: Example) -> None:
    assert "not JSON" in client.post("/v2/models/digits/infer", content=b"{").json()["error"]
    assert client.post("/v2/models/cats/infer", json={}).status_code == 404
    assert client.get("/v2/nothing").status_code == 404
    wanted = _ask(client, [_picture(made.png(700))], outputs=[{"name": "boxes"}])
    assert wanted.status_code == 400 and "class, probabilities, logits" in wanted.json()["error"]


@pytest.mark.parametrize("length", ["\u00b2", "9" * 5000, "-1"])
def test_a_length_that_is_no_number_is_answered(client: httpx.Client, length: str) -> None:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 0)
    connection.putrequest("POST", "/v2/models/digits/infer")
    connection.putheader("Content-Length", length.encode("latin-1"))
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client: httpx.Client) -> None:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 0)
    connection.putrequest("POST", "/v2/models/digits/infer")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413 and b"at most" in response.read()
    connection.close()


def test_requests_are_counted_in_fixed_bins(client: httpx.Client, served: Served, made: Example) -> None:
    served.window.take()
    for index in range(700, 710):
        _ask(client, [_picture(made.png(index))])
    _ask(client, [_picture(b"broken")])
    window = served.window.take()
    assert (window["request_count"], window["error_count"]) == (11, 1)
    assert sum(window["confidence"]["counts"]) == 10 == sum(window["class_counts"]) == window["latency_ms"]["count"]
    assert set(window["inputs"]) == set(INPUTS)
    assert all(sum(histogram["counts"]) == 10 for histogram in window["inputs"].values())
    assert served.window.take()["request_count"] == 0


def test_a_good_bundle_passes_its_probe(served: Served) -> None:
    assert served.probe() <= served.manifest["probe"]["max_abs_error"]


def test_a_bundle_that_computes_something_else_fails_its_probe(made: Example) -> None:
    served = Served(made.bundle.folder, threads=1)
    served.manifest["probe"] = {**served.manifest["probe"], "input_file": "probe_input.npy", "max_abs_error": -1.0}
    with pytest.raises(BadBundle, match="does not compute what was built"):
        served.probe()


def test_an_unknown_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineMissing, match="quantum"):
        load("quantum", tmp_path / "x", 1)


def test_a_bundle_that_answers_far_slower_than_measured_is_refused(served: Served) -> None:
    served.demand(60_000.0)
    with pytest.raises(BadBundle, match="are the most that was to be expected"):
        served.demand(1e-6)


def test_what_was_measured_says_how_slow_is_too_slow() -> None:
    assert slowest_ms(0.0) is None
    assert slowest_ms(4.0) == 40.0
