"""LiteRT (TensorFlow Lite) on the processor, with its XNNPACK kernels; one picture at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.runtimes.base import Floats, Runtime


class LiteRt(Runtime):
    def __init__(self, model: Path, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise EngineMissing("litert is not installed; run: pip install 'milonga-agent[litert]'") from error
        try:
            self._interpreter: Any = Interpreter(model_path=str(model), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BadBundle(f"litert cannot load {model.name}: {error}") from error
        self._input = self._interpreter.get_input_details()[0]
        self._output, *more = self._interpreter.get_output_details()
        self._embedding = more[0] if more else None
        self.input_shape = tuple(int(size) for size in self._input["shape"][1:])

    def run(self, inputs: Floats) -> Floats:
        return np.concatenate([self._ask(picture[None], self._output)[0] for picture in inputs])

    def run_embedding(self, inputs: Floats) -> tuple[Floats, Floats | None]:
        if self._embedding is None:
            return self.run(inputs), None
        found = [self._ask(picture[None], self._output, self._embedding) for picture in inputs]
        firsts, seconds = zip(*found)
        return np.concatenate(firsts), np.concatenate(seconds)

    def _ask(self, picture: Floats, *wanted: dict[str, Any]) -> list[Floats]:
        """Return what these outputs are for the picture, computed once."""
        self._interpreter.set_tensor(self._input["index"], _stored(picture, self._input))
        self._interpreter.invoke()
        return [_floats(self._interpreter.get_tensor(each["index"]), each) for each in wanted]


def _stored(picture: Floats, described: dict[str, Any]) -> Any:
    """Return the picture in the numbers of the model's input: q = round(x / scale) + zero point."""
    scale, zero = described["quantization"]
    if described["dtype"] == np.float32 or not scale:
        return picture
    limits = np.iinfo(described["dtype"])
    return np.clip(np.round(picture / scale) + zero, limits.min, limits.max).astype(described["dtype"])


def _floats(output: Any, described: dict[str, Any]) -> Floats:
    scale, zero = described["quantization"]
    if described["dtype"] == np.float32 or not scale:
        return np.array(output, dtype=np.float32)
    return np.asarray((output.astype(np.float32) - zero) * scale, dtype=np.float32)
