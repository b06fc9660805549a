"""TVM: a shared library that was compiled for this processor, run by TVM's runtime alone; the compiler is not loaded."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.runtimes.base import Floats, Runtime

# Compiled kernels read whole vectors from addresses that must be multiples of this (tvm/runtime/base.h).
_ALIGNMENT = 64
_CPU, _POOLED_ALLOCATOR = 1, 2  # DLDeviceType kDLCPU; vm.h: AllocatorType::kPooled
# How often a thread looks for the next kernel before it sleeps; by default 300,000 times, which took 260 ms of a processor after each
# answer. So often is less than a millisecond, and longer than it is from one kernel of a network to the next.
_LOOKS = 1000


class Tvm(Runtime):
    def __init__(self, model: Path, threads: int) -> None:
        tvm_ffi = load_runtime(threads)
        try:
            described = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
            shape = tuple(int(size) for size in described["input_shape"])
            self._machine = tvm_ffi.load_module(str(model.absolute()))["vm_load_executable"]()
            self._machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
        except Exception as error:  # TVM raises its own kinds, and Python's.
            raise BadBundle(f"tvm cannot load {model.name}: {error}") from error
        self.input_shape = shape
        self._main = self._machine["main"]
        self._picture = aligned((1, *shape))
        self._tensor = tvm_ffi.from_dlpack(self._picture)

    def run(self, inputs: Floats) -> Floats:
        return self.run_embedding(inputs)[0]

    def run_embedding(self, inputs: Floats) -> tuple[Floats, Floats | None]:
        first, *more = (np.concatenate(each) for each in zip(*(self._one(picture) for picture in inputs)))
        return first, more[0] if more else None

    def _one(self, picture: Floats) -> list[Floats]:
        self._picture[0] = picture
        output: Any = self._main(self._tensor)
        made = [output] if hasattr(output, "__dlpack__") else [*output]
        return [np.array(np.from_dlpack(one), dtype=np.float32) for one in made]


def load_runtime(threads: int) -> Any:
    """Load what compiled kernels need, and not the compiler; return tvm_ffi. Raises EngineMissing."""
    # Both are read once, when the first parallel kernel starts.
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["TVM_THREAD_POOL_SPIN_COUNT"] = str(_LOOKS)
    try:
        import tvm_ffi

        ctypes.CDLL(str(_runtime_library()), ctypes.RTLD_GLOBAL)
    except (ImportError, OSError) as error:
        raise EngineMissing("tvm is not installed; run: pip install 'milonga-agent[tvm]'") from error
    return tvm_ffi


def _runtime_library() -> Path:
    """Return TVM's runtime, found without importing tvm. Raises ImportError where it is not installed."""
    found = importlib.util.find_spec("tvm")
    if found is None or not found.submodule_search_locations:
        raise ImportError("tvm")
    return Path(found.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"


def aligned(shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """Return zeros that start at a multiple of the alignment."""
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size_bytes + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size_bytes].view(dtype).reshape(shape)
