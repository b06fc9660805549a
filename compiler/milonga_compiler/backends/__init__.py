"""Back ends by engine name. A new engine is one new file here and one line in target.ENGINES."""

from __future__ import annotations

import importlib

from milonga_compiler.backends.base import Backend
from milonga_compiler.errors import UnknownTarget
from milonga_compiler.target import ENGINES

_CLASSES = {"onnxruntime": "OnnxRuntimeBackend", "reference": "ReferenceBackend"}


def backend(engine: str) -> Backend:
    """Return the back end. Raises UnknownTarget for an engine that is not there, EngineMissing without its packages."""
    if engine not in ENGINES:
        raise UnknownTarget(f"there is no engine {engine!r}; there are: {', '.join(ENGINES)}")
    module = importlib.import_module(f"milonga_compiler.backends.{engine}")
    made: Backend = getattr(module, _CLASSES[engine])()
    return made
