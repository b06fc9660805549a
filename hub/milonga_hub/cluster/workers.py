"""A Ray cluster as the place where jobs run. The hub itself never imports Ray: a process for each job does."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from milonga_hub.cluster import rules
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.jobs import LOCAL, Workers
from milonga_hub.settings import Settings

_ADDRESS = re.compile(r"auto|(ray://)?[^\s/:]+:\d+")


class RayWorkers:
    """Kinds that a cluster does not know run on the hub's machine."""

    # A node that is asked to end a job answers within a second; the rest is for clusters far away.
    ending_seconds = 20.0

    def __init__(self, address: str, takes: Mapping[str, rules.Resources], at_once: int) -> None:
        self.at_once = at_once
        self._address = address
        self._takes = takes

    def threads(self, kind: str) -> int:
        return self._takes[kind].cpus if kind in self._takes else LOCAL.threads(kind)

    def command(self, kind: str, workdir: Path) -> Sequence[str]:
        if kind not in self._takes:
            return LOCAL.command(kind, workdir)
        order = json.dumps({"address": self._address, "takes": asdict(self._takes[kind])})
        return [sys.executable, "-m", "milonga_hub.cluster.driver", kind, str(workdir), order]


def chosen(settings: Settings) -> Workers:
    """Return where jobs run. Raises InvalidInput for what cannot be an address, FailedPrecondition where Ray is missing."""
    takes = rules.resources(settings.ray_resources)
    if not settings.ray:
        return LOCAL
    if not _ADDRESS.fullmatch(settings.ray):
        raise InvalidInput(f"--ray {settings.ray!r} is not a Ray cluster's address; write ray://head:10001")
    if importlib.util.find_spec("ray") is None:
        raise FailedPrecondition("--ray needs a package that is not installed: pip install 'milonga-hub[ray]'")
    return RayWorkers(settings.ray, takes, settings.ray_jobs)
