"""Latencies of ONNX files on this machine's ONNX Runtime, on one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

_WARM_UP, _REPEATS = 5, 60


class Session:
    """An ONNX file that takes one picture, ready to run."""

    def __init__(self, path: Path, size_px: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        picture = np.zeros((1, 3, size_px, size_px), dtype=np.float32)
        self._inputs = {self._session.get_inputs()[0].name: picture}

    def ms(self) -> float:
        """Return how long one picture takes."""
        began = time.perf_counter()
        self._session.run(None, self._inputs)
        return (time.perf_counter() - began) * 1e3


def medians_ms(sessions: Sequence[Session]) -> list[float]:
    """Return the median of each, taken in turn, so that other work on the machine falls on all alike."""
    times: list[list[float]] = [[] for _ in sessions]
    for number in range(_WARM_UP + _REPEATS):
        for taken, session in zip(times, sessions, strict=True):
            ms = session.ms()
            if number >= _WARM_UP:
                taken.append(ms)
    return [statistics.median(taken) for taken in times]
