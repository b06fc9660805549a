"""What has been seen of a device, as bytes and back: so that a hub that starts again need not look at its windows again. Pure."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from milonga_hub.telemetry.rules_allowed import Allowed
from milonga_hub.telemetry.rules_sequential import Watch
from milonga_hub.telemetry.rules_watching import Watched

# Of the layout; what another version wrote is not read.
_VERSION = 1


def packed_watch(seen: Watched, fresh: Watched) -> bytes | None:
    """Return what was seen, beyond what all devices with the bundle begin with (`fresh`); None while its first windows are still waited for."""
    if seen.early is not None:
        return None
    state = {
        "version": _VERSION,
        "allowed": {name: _of_allowed(one) for name, one in seen.allowed.items() if name not in fresh.allowed},
        "watches": {name: _of_watch(one) for name, one in seen.watches.items()},
        "slow_ms": None if math.isinf(seen.slow_ms) else seen.slow_ms,
        "said": {name: won for name, won in seen.said.items() if math.isfinite(won)},
    }
    return zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 1)


def opened_watch(packed: bytes, fresh: Watched) -> Watched | None:
    """Return what was seen; None where another version wrote it, or it is damaged."""
    try:
        state = json.loads(zlib.decompress(packed))
        if state["version"] != _VERSION:
            return None
        return replace(
            fresh,
            allowed={**fresh.allowed, **{name: _allowed(one) for name, one in state["allowed"].items()}},
            watches={name: _watch(one) for name, one in state["watches"].items()},
            early=None,
            slow_ms=math.inf if state["slow_ms"] is None else state["slow_ms"],
            said=state["said"],
        )
    except (zlib.error, ValueError, KeyError, TypeError):
        return None


def _of_allowed(one: Allowed) -> list[Any]:
    return [one.groups, one.expected.tolist(), one.radius, one.one_sided]


def _allowed(values: list[Any]) -> Allowed:
    groups, expected, radius, one_sided = values
    return Allowed(tuple(map(tuple, groups)), np.array(expected), radius, one_sided)


def _of_watch(one: Watch) -> dict[str, Any]:
    last = None if one.last is None else one.last.tolist()
    return {
        "groups": one.since.shape[1], "since": one.since.tolist(), "stakes": one.stakes.tolist(), "times": one.times,
        "last": last, "unlikeness": one.unlikeness,
    }  # fmt: skip


def _watch(values: Mapping[str, Any]) -> Watch:
    return Watch(
        np.array(values["since"], dtype=float).reshape(-1, values["groups"]),
        np.array(values["stakes"], dtype=float),
        tuple(values["times"]),
        None if values["last"] is None else np.array(values["last"]),
        tuple(values["unlikeness"]),
    )
