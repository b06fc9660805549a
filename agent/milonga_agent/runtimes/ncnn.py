"""ncnn on the processor: a .param file with its .bin beside it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.runtimes.base import Floats, Runtime

_INPUT = re.compile(r"^Input\s.* 0=(?P<width>\d+) 1=(?P<height>\d+) 2=(?P<channels>\d+)", re.MULTILINE)


class Ncnn(Runtime):
    def __init__(self, model: Path, threads: int) -> None:
        # Threads of OpenMP spin while they wait for each other, and read this when they are loaded. On two cores that had
        # other work too, spinning made a network of 2 ms take 50 to 270 ms.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            import ncnn
        except ImportError as error:
            raise EngineMissing("ncnn is not installed; run: pip install 'milonga-agent[ncnn]'") from error
        described = _INPUT.search(model.read_text(encoding="utf-8", errors="replace"))
        if described is None:
            raise BadBundle(f"{model.name} is not the .param file of a build: it does not say how large its input is")
        self.input_shape = tuple(int(described[name]) for name in ("channels", "height", "width"))
        self._mat = ncnn.Mat
        self._network = ncnn.Net()
        self._network.opt.use_vulkan_compute = False
        self._network.opt.num_threads = threads
        # The name says it: ncnn's files do not tell which numbers to compute in.
        half = model.name.endswith(".fp16.param")
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic"):
            setattr(self._network.opt, f"use_{option}", half)
        if self._network.load_param(str(model)) or self._network.load_model(str(model.with_suffix(".bin"))):
            raise BadBundle(f"ncnn {ncnn.__version__} cannot load {model.name} with {model.with_suffix('.bin').name}")
        self._input, (self._output, *more) = self._network.input_names()[0], self._network.output_names()
        self._embedding = more[0] if more else None

    def run(self, inputs: Floats) -> Floats:
        return np.stack([self._of(self._asked(picture), self._output) for picture in inputs])

    def run_embedding(self, inputs: Floats) -> tuple[Floats, Floats | None]:
        if self._embedding is None:
            return self.run(inputs), None
        firsts, seconds = [], []
        for picture in inputs:
            asked = self._asked(picture)
            firsts.append(self._of(asked, self._output))
            # What led to the first one is still there.
            seconds.append(self._of(asked, self._embedding))
        return np.stack(firsts), np.stack(seconds)

    def _asked(self, picture: Floats) -> Any:
        extractor = self._network.create_extractor()
        extractor.input(self._input, self._mat(np.ascontiguousarray(picture)))
        return extractor

    @staticmethod
    def _of(asked: Any, blob: str) -> Floats:
        failed, output = asked.extract(blob)
        if failed:
            raise RuntimeError(f"ncnn stopped with {failed}")
        return np.array(output, dtype=np.float32)
