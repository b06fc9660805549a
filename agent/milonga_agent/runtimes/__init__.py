"""Runtimes by engine name: one file each. A new engine is one new file here and one line in inventory.ENGINES."""

from __future__ import annotations

import importlib
from pathlib import Path

from milonga_agent.errors import EngineMissing
from milonga_agent.inventory import ENGINES
from milonga_agent.runtimes.base import Runtime

_CLASSES = {
    "litert": "LiteRt",
    "ncnn": "Ncnn",
    "onnxruntime": "OnnxRuntime",
    "openvino": "OpenVino",
    "reference": "Reference",
    "tensorrt": "TensorRt",
    "tvm": "Tvm",
}


def load(engine: str, model: Path, threads: int) -> Runtime:
    """Return the model, loaded by the engine. Raises EngineMissing for one that is unknown or not installed."""
    if engine not in ENGINES:
        raise EngineMissing(f"this agent knows no engine {engine!r}; it knows {', '.join(ENGINES)}; update the agent")
    module = importlib.import_module(f"milonga_agent.runtimes.{engine}")
    try:
        loaded: Runtime = getattr(module, _CLASSES[engine])(model, threads)
    except EngineMissing as error:
        if isinstance(error.__cause__, ImportError) and not isinstance(error.__cause__, ModuleNotFoundError):
            # Want of memory, most often: installing it again would not help.
            raise EngineMissing(f"{engine} is here, and cannot be loaded: {error.__cause__}") from error
        raise
    return loaded
