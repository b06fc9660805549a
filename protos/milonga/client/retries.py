"""What is tried again, and when: gRPC's own retries for calls that are safe to repeat, and pauses for streams."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor_pb2 import MethodOptions

from milonga.v1 import (
    accounts_pb2,
    alerts_pb2,
    datasets_pb2,
    devices_pb2,
    hubs_pb2,
    labelling_pb2,
    models_pb2,
    projects_pb2,
    rollouts_pb2,
    telemetry_pb2,
    webhooks_pb2,
)

# gRPC allows no more.
_MAX_ATTEMPTS = 5
# gRPC (1.85) never comes back from a pause of less than a millisecond, to which its own chance may shorten a short one.
_MIN_PAUSE_SECONDS = 0.01
_FILES: tuple[Any, ...] = (
    accounts_pb2,
    alerts_pb2,
    datasets_pb2,
    devices_pb2,
    hubs_pb2,
    labelling_pb2,
    models_pb2,
    projects_pb2,
    rollouts_pb2,
    telemetry_pb2,
    webhooks_pb2,
)


@dataclass(frozen=True)
class Retries:
    """How long a hub that does not answer is tried again. The defaults outlast a hub that is started anew."""

    # 1 tries nothing again; 5 at most. With the pauses below, the fifth try comes 7.5 s after the first.
    attempts: int = _MAX_ATTEMPTS
    first_pause_seconds: float = 0.5
    max_pause_seconds: float = 10.0
    # How long a stream that broke is opened anew in vain before the watcher is told.
    watch_seconds: float = 300.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= _MAX_ATTEMPTS:
            raise ValueError(f"attempts must be 1 to {_MAX_ATTEMPTS}")
        if not _MIN_PAUSE_SECONDS <= self.first_pause_seconds <= self.max_pause_seconds:
            raise ValueError(f"first_pause_seconds must be {_MIN_PAUSE_SECONDS} to max_pause_seconds")

    def service_config(self) -> str:
        """Return gRPC's service config (JSON): the methods that may be repeated are those that the protocol marks so."""
        if self.attempts == 1:
            return "{}"
        policy = {
            "maxAttempts": self.attempts,
            "initialBackoff": f"{self.first_pause_seconds:g}s",
            "maxBackoff": f"{self.max_pause_seconds:g}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        return json.dumps({"methodConfig": [{"name": list(_repeatable()), "retryPolicy": policy}]})

    def pauses(self) -> Iterator[float]:
        """Yield how long to wait before each new try, by chance, so that not all watchers come at once."""
        longest = self.first_pause_seconds
        while True:
            yield random.uniform(0, longest)
            longest = min(2 * longest, self.max_pause_seconds)


def _repeatable() -> Iterator[dict[str, str]]:
    for file in _FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN:
                    yield {"service": service.full_name, "method": method.name}
