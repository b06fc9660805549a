"""A network as TVM reads it, and the processors that TVM compiles for."""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from milonga_compiler.errors import BuildFailed, UnsupportedOperators
from milonga_compiler.network import Network, fix_batch

_UNKNOWN = re.compile(r"operators are not supported for frontend ONNX: (?P<names>[^\n]+)")


def imported(network: Network) -> Any:
    """Return the network as TVM's IRModule. Raises UnsupportedOperators or BuildFailed."""
    import onnx
    import onnxslim
    import tvm
    from tvm.relax.frontend.onnx import from_onnx

    with tempfile.TemporaryDirectory() as scratch:
        model = onnx.load(str(fix_batch(network, Path(scratch))))
    try:
        # Shape arithmetic that exporters leave in (YOLO) fails in TVM's code generation; onnxslim computes it away.
        model = onnxslim.slim(model) if not _foreign(network) else model
        return from_onnx(model, shape_dict={network.input_name: [1, *network.shape]}, keep_params_in_input=False)
    except Exception as error:  # TVM raises many kinds.
        unknown = _UNKNOWN.search(str(error))
        if unknown is None:
            raise BuildFailed(f"TVM {tvm.__version__} cannot import the network: {error}") from error
        names = sorted(network.full_name(name.strip()) for name in unknown["names"].split(","))
        message = f"TVM {tvm.__version__} does not know the operators {', '.join(names)}"
        raise UnsupportedOperators(message, names) from error


def _foreign(network: Network) -> bool:
    """Return whether there are operators that are not ONNX's own: onnxslim stops at them."""
    return any("." in name for name in network.operators)


def llvm(architecture: str, local: bool) -> dict[str, str]:
    """Return TVM's target. A library for other machines uses only what all of that architecture have."""
    described = {"kind": "llvm", "mtriple": f"{architecture}-linux-gnu"}
    if architecture == "x86_64":
        # Levels of the x86-64 psABI: v2 is every board since 2009, v3 has AVX2.
        avx2 = local and " avx2 " in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        described["mcpu"] = "x86-64-v3" if avx2 else "x86-64-v2"
    return described


def c_compiler(architecture: str) -> str:
    """Return the compiler that links for the architecture. Raises BuildFailed with the package to install."""
    local = architecture == platform.machine()
    names = ("g++", "gcc", "clang") if local else (f"{architecture}-linux-gnu-gcc",)
    found = next((name for name in names if shutil.which(name)), None)
    if found is None:
        package = "gcc" if local else f"gcc-{architecture.replace('_', '-')}-linux-gnu"
        raise BuildFailed(f"linking for {architecture} needs {names[-1]}; run: apt-get install {package}")
    return found
