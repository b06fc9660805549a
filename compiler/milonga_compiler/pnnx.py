"""pnnx, a program that reads ONNX and writes ncnn's files and plain PyTorch code; it needs none of its package's own needs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

from milonga_compiler.errors import BuildFailed, UnsupportedOperators
from milonga_compiler.network import Network, fix_batch

# Where so little is not left, what is built of the files would not fit either.
_ROOM_BYTES = 64 << 10
_UNKNOWN = re.compile(r"unexpected op_type (?P<name>\w+)|op: (?P<domain>[\w.]+):(?P<other>\w+)")


def convert(network: Network, scratch: Path, half: bool = False) -> Path:
    """Write converted.param and .bin (ncnn) and converted.py (PyTorch) into the folder and return the first.

    `half` stores ncnn's weights as float16. Raises UnsupportedOperators or BuildFailed, and OSError where the disk is full.
    """
    package = importlib.util.find_spec("pnnx")
    assert package is not None and package.submodule_search_locations, "the interpreter was chosen for having it"
    program = Path(package.submodule_search_locations[0]) / "pnnx"
    model, made = fix_batch(network, scratch), scratch / "converted.param"
    shape = ",".join(map(str, (1, *network.shape)))
    files = [f"ncnnparam={made.name}", f"ncnnbin={made.stem}.bin", f"pnnxpy={made.stem}.py"]
    done = subprocess.run(
        [str(program), model.name, f"inputshape=[{shape}]", f"fp16={int(half)}", *files],
        cwd=str(scratch), capture_output=True, text=True,
    )  # fmt: skip
    said = done.stdout + done.stderr
    print(said)
    _write_some(scratch / "room")
    if not made.exists():
        raise _refused(said, network, done.returncode)
    return made


def _write_some(path: Path) -> None:
    """Raise OSError on a disk that is full: pnnx says nothing of it, and leaves files that are cut off."""
    with path.open("wb") as file:
        file.write(bytes(_ROOM_BYTES))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def onnx_name(kind: str, network: Network) -> str:
    """Return the network's own name of an operator that pnnx calls torch.einsum, F.gelu or Gelu."""
    plain = re.split(r"[.:]+", kind)[-1].replace("_", "").lower()
    return next((name for name in sorted(network.operators) if name.rpartition(".")[2].lower() == plain), kind)


def _refused(said: str, network: Network, code: int) -> BuildFailed:
    """pnnx prints what it does not know, and goes on until it crashes."""
    names = sorted({onnx_name(found["name"] or found["other"], network) for found in _UNKNOWN.finditer(said)})
    if names:
        return UnsupportedOperators(f"pnnx does not know the operators {', '.join(names)}", names)
    last = " | ".join(line.strip() for line in said.splitlines()[-3:])
    return BuildFailed(f"pnnx cannot convert the network (exit code {code}); it last said: {last}")
