"""What this process has counted since it started; web/metrics.py tells it to Prometheus."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

# By method and status.
http_requests: Counter[tuple[str, str]] = Counter()
# By full method name and status code. Only methods that exist are counted, so the labels are bounded.
grpc_calls: Counter[tuple[str, str]] = Counter()
# By kind of job and "succeeded" or "failed"; seconds by kind.
jobs_ended: Counter[tuple[str, str]] = Counter()
job_seconds: defaultdict[str, float] = defaultdict(float)
# Messages of devices that could not be read.
refused_messages: Counter[str] = Counter()
# Bytes of builds that came to devices, by where from: "hub" or "neighbours", as the devices tell it.
blob_bytes: Counter[str] = Counter()
# Things that wait, by queue.
queues: dict[str, Callable[[], int]] = {}
