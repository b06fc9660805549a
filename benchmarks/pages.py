"""How soon pages of the dashboard are there with 10,000 devices, and a rollout to all of them.

Every page of the tests is asked for over HTTP from a hub in a process of its own, in random order, so that none finds all warm.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time

import httpx

from benchmarks._digits import told
from benchmarks.results import Result
from tests.web.test_pages import LISTS, THINGS

_DEVICES = int(os.environ.get("BENCH_DEVICES", "10000"))
_REPEATS = 25
_GOAL_MS = 200.0
# Pages that tests/web/test_browser.py looks at beside those.
_OTHERS = (
    "/settings/policies",
    "/settings/webhooks",
    "/settings/users",
    "/settings/audit",
    "/settings/usage",
    "/runs/digits/2/log",
    "/new/models",
)
# A device among the many, the selector of a site, and the rollout that has them all.
_LARGE = ("/devices/unit-00042", "/devices?selector=site%3Dsite-7", "/devices?state=offline", "/rollouts/digits-3")


def run() -> list[Result]:
    """Return the 95th percentile of the slowest page, and the median over pages of theirs."""
    pages = [*LISTS, *THINGS, *_OTHERS, *_LARGE]
    command = [sys.executable, "-m", "benchmarks._pages_hub", str(_DEVICES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hub:
        try:
            assert hub.stdout is not None
            found = json.loads(hub.stdout.readline())
            with httpx.Client(base_url=found["address"], cookies=found["cookies"], timeout=60.0) as client:
                times = _times(client, pages)
        finally:
            hub.kill()
    worst = {page: statistics.quantiles(some, n=20)[-1] for page, some in times.items()}
    for page in sorted(pages, key=lambda one: -worst[one])[:8]:
        print(f"  {page}: median {statistics.median(times[page]):.0f} ms, p95 {worst[page]:.0f} ms")
    slowest = max(worst, key=lambda page: worst[page])
    name = f"{_GOAL_MS:.0f} ms, {_DEVICES:,} devices"
    return [
        Result(f"p95 of the slowest page, {slowest}", worst[slowest], "ms", name, _GOAL_MS, 1.0),
        Result("median over pages of their p95", statistics.median(worst.values()), "ms", name, _GOAL_MS, 1.0),
    ]


def _times(client: httpx.Client, pages: list[str]) -> dict[str, list[float]]:
    asked = random.Random(0).sample(pages * _REPEATS, len(pages) * _REPEATS)
    times: dict[str, list[float]] = {page: [] for page in pages}
    for page in told(asked, "page", len(asked)):
        began = time.perf_counter()
        response = client.get(page)
        times[page].append((time.perf_counter() - began) * 1e3)
        response.raise_for_status()
    return times
