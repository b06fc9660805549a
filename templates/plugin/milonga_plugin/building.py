"""What the hub and the compiler must know of the engine before it is used. Imports nothing of the engine's own."""

from __future__ import annotations

from milonga_compiler.engines import Engine, Precision

ENGINE = Engine(
    precisions=(Precision.FP32,),
    # What must be importable where it builds; `own_environment=True` would give it an environment of its own.
    modules=("onnx",),
    # Of the distribution that running.py names: which versions on a device can run what is built.
    requirement=">=0.1",
    verification="verified on x86-64; not verified on hardware elsewhere",
    backend="milonga_plugin.packed_backend:PackedBackend",
)
