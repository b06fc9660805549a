"""What an agent must know of the engine before it runs a model. Imports nothing of the engine's own: the agent stays small."""

from __future__ import annotations

from milonga_agent.plugged import Engine

ENGINE = Engine(
    # Its version is the engine's. Of an engine with a package of its own, that package.
    distribution="milonga-plugin-template",
    precisions=("fp32",),
    runtime="milonga_plugin.packed_runtime:Packed",
)
