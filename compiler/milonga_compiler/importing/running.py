"""Run networks from elsewhere in ONNX Runtime, also to look at what flows inside of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from milonga_compiler.backends.base import Floats
from milonga_compiler.errors import BuildFailed, UnsupportedOperators
from milonga_compiler.isolated import knowing
from milonga_compiler.network import read_network


def run_singly(path: Path, pictures: Floats) -> Floats:
    """Return the output (n, ...) for pictures (n, 3, H, W) that are given one at a time. Raises BuildFailed."""
    return np.concatenate([_run(path, pictures[index : index + 1], None)[0] for index in range(len(pictures))])


def run_together(path: Path, pictures: Floats) -> Floats:
    """Return the output (n, ...) for pictures (n, 3, H, W) that are given at once. Raises BuildFailed."""
    return np.asarray(_run(path, pictures, None)[0])


def look_inside(model: onnx.ModelProto, names: Sequence[str], pictures: Floats, path: Path) -> Mapping[str, Floats]:
    """Return what the named values inside a network are (n, ...), of those that are float32; `path` takes a copy of it."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    there = {value.name for value in copied.graph.output}
    copied.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    onnx.save(copied, str(path))
    singly = [_run(path, pictures[index : index + 1], [*names]) for index in range(len(pictures))]
    columns = {name: [row[place] for row in singly] for place, name in enumerate(names)}
    return {
        name: np.concatenate(some)
        for name, some in columns.items()
        if some[0].dtype == np.float32 and some[0].ndim and len({one.shape for one in some}) == 1
    }


def _run(path: Path, pictures: Floats, names: list[str] | None) -> list[Any]:
    from milonga_compiler.backends.onnxruntime import OnnxRuntimeBackend

    try:
        session = OnnxRuntimeBackend().session(path, 1)
    except UnsupportedOperators as error:
        raise unsupported(path, error) from error
    try:
        found: list[Any] = session.run(names, {session.get_inputs()[0].name: pictures}, _silent())
    except Exception as error:  # onnxruntime raises many kinds, none of them public.
        reason = str(error).strip().splitlines()[-1]
        raise BuildFailed(f"{path.name} cannot be run: {reason}") from error
    return found


def _silent() -> Any:
    """Return options that leave it to whoever calls to tell what went wrong."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return options


def unsupported(path: Path, error: UnsupportedOperators) -> BuildFailed:
    """Name the operators, and the engines that know them."""
    able = knowing(read_network(path))
    who = f"{', '.join(able)} here would, but it is proved by ONNX Runtime" if able else "no engine here does"
    named = ", ".join(error.operators)
    return BuildFailed(
        f"{path.name} uses the operator {named}, which ONNX Runtime does not know, and {who}; export it without (operators of one"
        " framework's own are often an export option), or where ONNX got it later, in a newer opset"
    )
