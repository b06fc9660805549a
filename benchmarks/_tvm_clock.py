"""Times TVM builds by the agent's runtime, in an interpreter that has it: says times in ms for "NUMBER REPEATS" on stdin."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    from milonga_agent.runtimes.tvm import Tvm

    os.sched_setaffinity(0, [int(sys.argv[1])])
    models = [Tvm(Path(name), 1) for name in sys.argv[2:]]
    pictures = [np.zeros((1, *(size or 1 for size in model.input_shape)), dtype=np.float32) for model in models]
    for line in sys.stdin:
        number, repeats = map(int, line.split())
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            models[number].run(pictures[number])
            times.append((time.perf_counter() - began) * 1e3)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
