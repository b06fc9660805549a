"""What a space counts of a subnet is what its file holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from milonga_hub.builds.graph import parts, read_graph
from milonga_hub.learning.export import export
from milonga_hub.learning.spaces import space


@pytest.mark.parametrize("name", ["mbv3", "resnet"])
def test_costs_of_a_subnet_are_those_of_its_file(name: str, tmp_path: Path) -> None:
    one = space(name, 32)
    chosen = one.smallest()
    network = one.deployed(one.network(chosen, 10).eval())
    export(network, one.resolution(chosen), tmp_path / "model.onnx", one.output)
    graph, cost = read_graph(tmp_path / "model.onnx"), one.cost(chosen, 10)
    assert (graph.macs, graph.params) == (cost.macs, cost.params)
    assert len(parts(graph)) == len({part.name for part in parts(graph)})
