"""What a run of the benchmark "engines" has found so far, on disk: one that was interrupted is gone on with by the next."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from milonga_agent.inventory import engine_version
from milonga_compiler.engines import ENGINES
from milonga_compiler.files import write_atomically

from benchmarks.results import Result


class Kept:
    """Figures of one commit, one processor and one set of engines; what others left is not taken."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "run.json"
        self._known: dict[str, Any] = {"place": _place(), "builds": {}, "results": {}}
        if self._path.exists():
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["place"] == self._known["place"]:
                self._known = kept

    def builds(self, title: str) -> dict[str, dict[str, str]] | None:
        """Return the builds of a network that hold, by target: "model" and what there is to say "about" each. None: not made yet."""
        found: dict[str, dict[str, str]] | None = self._known["builds"].get(title)
        whole = found is not None and all(Path(one["model"]).exists() for one in found.values())
        return found if whole else None

    def results(self, part: str) -> list[Result] | None:
        """Return the figures of one part of the run; None where it was not done."""
        rows = self._known["results"].get(part)
        return None if rows is None else [Result(**row) for row in rows]

    def keep_builds(self, title: str, builds: dict[str, dict[str, str]]) -> None:
        self._known["builds"][title] = builds
        self._write()

    def keep_results(self, part: str, results: Sequence[Result]) -> None:
        self._known["results"][part] = [asdict(one) for one in results]
        self._write()

    def end(self) -> None:
        """Forget all of it: the next run begins anew."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        write_atomically(self._path, json.dumps(self._known))


def _place() -> str:
    """Return a digest of all that figures depend on, but for what else the machine does."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    told = [commit.stdout, cpus, {name: engine_version(name) for name in ENGINES}]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
