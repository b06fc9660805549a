"""What a network costs is read from its file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from milonga_hub.builds.graph import graph_of, parts, read_graph, stages

from tests.builds.networks import MACS, PARAMS, cutting, network


@pytest.fixture
def path(tmp_path: Path) -> Path:
    network(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_costs_and_shapes_are_those_of_one_picture(path: Path) -> None:
    graph = read_graph(path)
    assert (graph.macs, graph.params, graph.input_shape) == (MACS, PARAMS, (1, 3, 16, 16))
    assert [one.kind for one in graph.operations][:3] == ["Conv", "Relu", "Conv"]
    assert graph.operations[0].about == "3x3, stride 2"
    assert graph.operations[2].about == "3x3, 8 groups"
    assert [math.prod(one.makes) for one in graph.operations] == [512] * 5 + [8, 8, 10]


def test_modules_are_known_by_their_names_and_say_whom_they_read(path: Path) -> None:
    modules = parts(read_graph(path))
    assert [(part.name, part.reads) for part in modules] == [
        ("stem", (-1,)),
        ("stage0_block0", (0,)),
        ("stage0_block1", (0, 1)),
        ("classifier", (2,)),
    ]
    assert sum(part.macs for part in modules) == MACS
    assert [(stage.name, len(stage.parts)) for stage in stages(modules)] == [
        ("stem", 1),
        ("stage0", 2),
        ("classifier", 1),
    ]


def test_shapes_that_a_network_computes_are_followed(tmp_path: Path) -> None:
    cutting(tmp_path / "model.onnx")
    graph = read_graph(tmp_path / "model.onnx")
    assert [one.makes for one in graph.operations][-2:] == [(1, 2, 8, 8), (1, 5, 8, 8)]
    assert (graph.macs, graph.params) == (5 * 8 * 8 * 2, 10)
    assert [(part.name, part.makes) for part in parts(graph)] == [("cut", (1, 2, 8, 8)), ("conv", (1, 5, 8, 8))]


def test_a_process_of_its_own_reads_the_same(path: Path) -> None:
    assert graph_of(path) == read_graph(path)


def test_what_is_no_network_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no network")
    with pytest.raises(ValueError, match="cannot be read as ONNX"):
        graph_of(tmp_path / "x")
