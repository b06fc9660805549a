"""What a space counts of a subnet is what its file holds."""

from __future__ import annotations

import subprocess
import sys
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


def test_counting_and_training_start_without_torchs_compiler() -> None:
    """To import it takes three seconds of the processor, in each job."""
    program = """
import sys, torch
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.recipes import optimiser
from milonga_hub.learning.spaces import space
for name in ("mbv3", "resnet", "densenet"):
    space(name, 32).cost(space(name, 32).smallest(), 10)
for name in ("sgd", "adamw"):
    network = torch.nn.Linear(2, 2)
    recipe = Recipe("resnet", 16, epochs=1, batch_size=1, learning_rate=0.1, seed=0, precision="fp32", optimiser=name)
    found = optimiser(network, recipe)
    found.zero_grad()
    network(torch.ones(1, 2)).sum().backward()
    found.step()
    found.load_state_dict(found.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
