"""The whole loop: time of each stage, and what the hub needs at its peak."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

from benchmarks.results import Result

# The demo's goal: under six minutes on two cores.
BUDGET_SECONDS = 360.0

_BARE = "import fastapi, grpc, numpy, sqlmodel, uvicorn, paho.mqtt.client, psutil; print(psutil.Process().memory_info().rss)"


def _hub_of(demo: int) -> psutil.Process | None:
    for child in psutil.Process(demo).children():
        if "milonga_hub.cli" in child.cmdline():
            return child
    return None


def _peak_rss(process: psutil.Process) -> int:
    """Return VmHWM of /proc/PID/status, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def run() -> list[Result]:
    """Run the demo once and watch its hub."""
    bare = float(subprocess.run([sys.executable, "-c", _BARE], capture_output=True, check=True).stdout)
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.json"
        demo = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.demo", "--summary", str(summary), "--data-dir", f"{folder}/data"]
        )
        ended = threading.Event()
        peak = [0]

        def watch() -> None:
            while not ended.wait(0.5):
                try:
                    hub = _hub_of(demo.pid)
                    peak[0] = max(peak[0], _peak_rss(hub) if hub else 0)
                except (psutil.Error, OSError):
                    continue

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = demo.wait()
        ended.set()
        watcher.join()
        if code != 0:
            raise RuntimeError(f"the demo failed with exit code {code}")
        done = json.loads(summary.read_text())
    budget = "six minutes"
    results = [Result("whole demo after installation", done["seconds"], "s", budget, BUDGET_SECONDS, 1.0)]
    results += [
        Result(f"stage {stage['name']}", stage["seconds"], "s", budget, BUDGET_SECONDS, None)
        for stage in done["stages"]
    ]
    results.append(Result("drift, injection to detection", done["drift_seconds"], "s", "", None, None))
    if done["recovery_seconds"] is not None:
        claim = "drift, injection to the retrained version on every device"
        results.append(Result(claim, done["recovery_seconds"], "s", "", None, None))
    peer = "a bare Python with the same libraries imported"
    results.append(Result("peak memory of the hub's process", peak[0] / 1e6, "MB", peer, bare / 1e6, 3.0))
    return results
