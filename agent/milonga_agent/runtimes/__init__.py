"""Runtimes by engine name: one file each. A new engine is one new file here and one line in inventory.ENGINES, or a plug-in."""

from __future__ import annotations

import importlib
from pathlib import Path

from milonga.plugins import PluginBroken, named

from milonga_agent.errors import EngineMissing
from milonga_agent.inventory import ENGINES, known_engines, plugged_engines
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
    kind = kind_of(engine)
    try:
        return kind(model, threads)
    except EngineMissing as error:
        if isinstance(error.__cause__, ImportError) and not isinstance(error.__cause__, ModuleNotFoundError):
            # Want of memory, most often: installing it again would not help.
            raise EngineMissing(f"{engine} is here, and cannot be loaded: {error.__cause__}") from error
        raise


def kind_of(engine: str) -> type[Runtime]:
    """Return the engine's Runtime. Raises EngineMissing for one that is unknown, or a plug-in's that cannot be loaded."""
    if engine in ENGINES:
        module = importlib.import_module(f"milonga_agent.runtimes.{engine}")
        own: type[Runtime] = getattr(module, _CLASSES[engine])
        return own
    others = plugged_engines()
    if engine in others.values:
        return _plugged(engine, others.values[engine].runtime)
    broken = next((one for one in others.plugins if one.name == engine), None)
    if broken is not None:
        raise EngineMissing(f"{engine} of {broken.distribution} is left out: {broken.problem}")
    raise EngineMissing(
        f"this agent knows no engine {engine!r}; it knows {', '.join(known_engines())}; update the agent"
    )


def _plugged(engine: str, place: str) -> type[Runtime]:
    try:
        kind = named(place)
    except PluginBroken as error:
        raise EngineMissing(f"the runtime of {engine}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Runtime)):
        raise EngineMissing(f"the runtime of {engine}: {place} is no milonga_agent.runtimes.base.Runtime")
    return kind
