"""ONNX Runtime on the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.runtimes.base import Floats, Runtime

# By default its threads look for work without a pause: for some 55 ms after each run, which takes ten times the processor time of a
# small network; and between the layers of one, where they keep the core from whoever has the work, so that beside another process two
# threads on two cores took twice the time of one. In 20 µs the next layer finds them awake. Versions that do not know an entry let it pass.
_WAITING = {"session.force_spinning_stop": "1", "session.intra_op.spin_duration_us": "20"}


class OnnxRuntime(Runtime):
    def __init__(self, model: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineMissing(
                "onnxruntime is not installed; run: pip install 'milonga-agent[onnxruntime]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        for name, value in _WAITING.items():
            options.add_session_config_entry(name, value)
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many kinds, none of them public.
            raise BadBundle(f"onnxruntime {onnxruntime.__version__} cannot load {model.name}: {error}") from error
        described = self._session.get_inputs()[0]
        self._name = described.name
        self.input_shape = tuple(described.shape[1:])

    def run(self, inputs: Floats) -> Floats:
        return self.run_embedding(inputs)[0]

    def run_embedding(self, inputs: Floats) -> tuple[Floats, Floats | None]:
        first, *more = self._session.run(None, {self._name: inputs})
        return np.asarray(first, dtype=np.float32), np.asarray(more[0], dtype=np.float32) if more else None
