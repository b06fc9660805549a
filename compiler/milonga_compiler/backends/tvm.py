"""TVM: a shared library per processor architecture, compiled here for devices of any that Debian has a compiler for."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.embedding import embedded
from milonga_compiler.engines import Precision
from milonga_compiler.errors import CannotRunHere
from milonga_compiler.network import Network, read_network
from milonga_compiler.target import Target
from milonga_compiler.tuning import Step, Tuning
from milonga_compiler.tvm_network import c_compiler, imported, llvm

# e_machine at byte 18 of an ELF header (System V ABI, "ELF Header"), as `uname -m` says it.
_MACHINES = {62: "x86_64", 183: "aarch64"}
# Compiled kernels read whole vectors from addresses that must be multiples of this (tvm/runtime/base.h: kAllocAlignment).
_ALIGNMENT = 64
_CPU, _POOLED_ALLOCATOR = 1, 2  # DLDeviceType kDLCPU; vm.h: AllocatorType::kPooled


class TvmBackend(Backend):
    name = "tvm"

    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
            # A second output that nobody reads costs a small product.
            yield self._compiled(*embedded(network, Path(scratch)), folder)

    def _compiled(self, network: Network, embeds: bool, folder: Path) -> BuiltModel:
        import tvm

        architecture = self.architecture or platform.machine()
        compiler, target = c_compiler(architecture), llvm(architecture, local=not self.architecture)
        if self.database is None:
            executable, told = tvm.compile(imported(network), tvm.target.Target(target)), "not tuned"
        else:
            from milonga_compiler.tvm_tuning import compiled

            executable, told = compiled(network, target, self.database)
        executable.export_library(str(folder / "model.so"), cc=compiler)
        described = {"input_shape": list(network.shape), "embeds": embeds}
        (folder / "model.json").write_text(json.dumps(described), encoding="utf-8")
        return BuiltModel("model.so", ["model.so", "model.json"], note=f"{told}, for {architecture}")

    def embed(self, model_file: Path) -> bool:
        return bool(json.loads(model_file.with_suffix(".json").read_text(encoding="utf-8"))["embeds"])

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        return self.outputs(model_file, inputs, threads)[0]

    def outputs(self, model_file: Path, inputs: Floats, threads: int) -> list[Floats]:
        built_for = _machine(model_file)
        if built_for != platform.machine():
            raise CannotRunHere(f"it is built for {built_for} and this machine is {platform.machine()}")
        os.environ["TVM_NUM_THREADS"] = str(threads)  # Read once, when the first parallel kernel starts.
        import tvm_ffi

        _load_runtime()
        machine = tvm_ffi.load_module(str(model_file.absolute()))["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
        given = _aligned((1, *inputs.shape[1:]))
        tensor, outputs = tvm_ffi.from_dlpack(given), []
        for picture in inputs:
            given[0] = picture
            made = machine["main"](tensor)
            outputs.append([np.array(np.from_dlpack(one), dtype=np.float32) for one in _all(made)])
        return [np.concatenate(each) for each in zip(*outputs)]

    def tune(self, onnx_path: Path, target: Target, tuning: Tuning) -> Iterator[Step]:
        from milonga_compiler.tvm_tuning import tune

        with tempfile.TemporaryDirectory() as scratch:
            # Kernels of what is built, which is not all that the file has.
            yield from tune(embedded(read_network(onnx_path), Path(scratch))[0], target, tuning)

    def _accept(self, network: Network, scratch: Path) -> None:
        imported(network)


def _aligned(shape: tuple[int, ...]) -> Floats:
    """Return zeros (float32) that start at a multiple of the alignment that compiled kernels rely on."""
    size_bytes = int(np.prod(shape)) * 4
    memory = np.zeros(size_bytes + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size_bytes].view(np.float32).reshape(shape)


def _all(output: Any) -> list[Any]:
    return [output] if hasattr(output, "__dlpack__") else [*output]


def _load_runtime() -> None:
    """Load what compiled models need, and not the compiler, which takes seconds and 260 MB."""
    found = importlib.util.find_spec("tvm")
    assert found is not None and found.submodule_search_locations, "the interpreter was chosen for having it"
    ctypes.CDLL(str(Path(found.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)


def _machine(library: Path) -> str:
    with library.open("rb") as file:
        header = file.read(20)
    number = int.from_bytes(header[18:20], "little")
    return _MACHINES.get(number, f"ELF machine {number}")
