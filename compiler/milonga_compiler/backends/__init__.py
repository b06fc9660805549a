"""Back ends by engine name. A new engine is one new file here and one entry in engines.py, or a plug-in."""

from __future__ import annotations

import importlib
from pathlib import Path

from milonga_compiler.backends.base import Backend
from milonga_compiler.engines import ENGINES
from milonga_compiler.errors import UnknownTarget
from milonga_compiler.plugins import PluginBroken, named

_CLASSES = {
    "litert": "LiteRtBackend",
    "ncnn": "NcnnBackend",
    "onnxruntime": "OnnxRuntimeBackend",
    "openvino": "OpenVinoBackend",
    "reference": "ReferenceBackend",
    "tensorrt": "TensorRtBackend",
    "tvm": "TvmBackend",
}


def backend(engine: str, log: Path | None = None, database: Path | None = None) -> Backend:
    """Return the back end, whose engine runs in processes of its own and prints into `log`; builds use what `database` holds.

    Raises UnknownTarget for an engine that is not there, EngineMissing without its packages.
    """
    from milonga_compiler.isolated import IsolatedBackend, default_limits

    _check(engine)
    made = IsolatedBackend(engine, default_limits(), log)
    made.database = database
    return made


def in_process(engine: str) -> Backend:
    """Return the back end itself, for the process that is the engine's own."""
    _check(engine)
    if engine not in _CLASSES:
        return _plugged(engine)
    module = importlib.import_module(f"milonga_compiler.backends.{engine}")
    made: Backend = getattr(module, _CLASSES[engine])()
    return made


def _plugged(engine: str) -> Backend:
    """Return a plug-in's back end. Raises PluginBroken where there is none at the place that its engine names."""
    place = ENGINES[engine].backend
    kind = named(place)
    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise PluginBroken(f"{place} is no milonga_compiler.backends.base.Backend")
    made: Backend = kind()
    made.name = engine
    return made


def _check(engine: str) -> None:
    if engine not in ENGINES:
        raise UnknownTarget(f"there is no engine {engine!r}; there are: {', '.join(ENGINES)}")
