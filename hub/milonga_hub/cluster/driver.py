"""Watch over one job on a Ray cluster: `python -m milonga_hub.cluster.driver KIND WORKDIR ORDER`, as the hub starts it.

It says and leaves what a job on the hub's machine would. Whatever the job writes comes back while it runs, so a job whose
node is lost goes on elsewhere from there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milonga.ending import die_with_parent
from milonga_compiler.files import write_atomically

from milonga_hub.cluster import rules
from milonga_hub.cluster.arrivals import Arrivals
from milonga_hub.cluster.connection import connected
from milonga_hub.cluster.load import Load, load
from milonga_hub.cluster.placing import Alone, Lost, Place
from milonga_hub.cluster.station import WORK, News
from milonga_hub.errors import MilongaError
from milonga_hub.jobs import Claim, JobError

# As for runs: a job whose node is lost three times, without having got on in between, will lose it again.
_MAX_LOSSES = 3
# Longer than it takes to answer, short enough that a cancelled job ends at once.
_NEWS_SECONDS = 1.0
_RESULT = f"{WORK}/result.json"


@dataclass(frozen=True)
class Order:
    address: str
    takes: rules.Resources

    @classmethod
    def read(cls, text: str) -> Order:
        order = json.loads(text)
        return cls(order["address"], rules.Resources(**order["takes"]))


class Driver:
    def __init__(
        self, kind: str, workdir: Path, order: Order, say: Callable[[dict[str, Any]], None], claim: Claim
    ) -> None:
        self._kind, self._workdir, self._order, self._claim = kind, workdir, order, claim
        self._spec: dict[str, Any] = json.loads((workdir / "spec.json").read_text(encoding="utf-8"))
        self._say = say
        self._fraction, self._where = 0.0, ""
        # Files that came back in this attempt.
        self._arrived = 0

    def run(self) -> int:
        """Return the exit code of the job's process. Raises JobError where the cluster cannot do it."""
        with connected(self._order.address):
            losses = 0
            while True:
                self._arrived = 0
                try:
                    return self._attempt()
                except Lost as lost:
                    losses = 1 if self._arrived else losses + 1
                    if losses == _MAX_LOSSES:
                        raise JobError(self._lost(losses, lost)) from lost
                    self._tell(f"{lost}: it goes on elsewhere from what came back")

    def _attempt(self) -> int:
        wanted = load(self._kind, self._spec, self._workdir)
        stations = self._place()
        try:
            stations.open(wanted.sizes, self._tell)
            self._where = stations.where
            self._start(stations, wanted)
            return self._follow(stations, wanted)
        finally:
            stations.close()

    def _place(self) -> Place:
        if self._order.takes.workers == 1:
            return Alone(self._kind, self._order.takes)
        try:
            # Imported here: Ray Train takes a second, and most jobs do without.
            from milonga_hub.cluster.team import Team
        except ImportError as error:
            raise JobError(f"several workers need Ray Train ({error}): pip install 'milonga-hub[ray]'") from error

        return Team(self._kind, self._order.takes)

    def _start(self, stations: Place, wanted: Load) -> None:
        missing = stations.each("missing", list(wanted.sizes))
        sizes = wanted.sizes
        for rank, (about, digests) in enumerate(zip(stations.abouts, missing, strict=True)):
            size = sum(sizes[one] for one in digests)
            self._tell(
                f"sending {size / 1e6:.1f} MB to {about['host']}" if size else f"{about['host']} has what it reads"
            )
            for batch in wanted.batches(digests):
                stations.ask(rank, "take", batch)
            spec = json.dumps(wanted.spec(self._kind, self._spec, about["folder"]), sort_keys=True, indent=1)
            stations.ask(rank, "start", self._kind, spec, wanted.digests)

    def _follow(self, stations: Place, wanted: Load) -> int:
        """Take what happens until the leader has ended, or any other has failed, and return that exit code."""
        work = {WORK: self._workdir, **wanted.kept()}
        arrivals, result = Arrivals(work), bytearray()
        try:
            while True:
                told: list[News] = stations.each("news", _NEWS_SECONDS)
                # Before anything of it is written: another hub's files of the job are in this folder by then.
                self._claim.demand()
                for news in told:
                    sys.stderr.buffer.write(news.log)
                for line in told[0].lines:
                    self._pass_on(line)
                for part in told[0].parts:
                    if part.name == _RESULT:
                        result += part.data
                    else:
                        arrivals.take(part)
                for name in told[0].gone:
                    arrivals.remove(name)
                self._arrived = arrivals.count
                code = next((one.code for one in [told[0], *told[1:]] if one.code), told[0].code)
                if code:
                    stations.failed()
                if code is not None:
                    self._keep(bytes(result), wanted, stations.abouts[0]["folder"])
                    return code
        finally:
            sys.stderr.flush()
            arrivals.close()

    def _keep(self, result: bytes, wanted: Load, folder: str) -> None:
        if result:
            found = rules.returned(json.loads(result), wanted.back(folder, self._workdir))
            write_atomically(self._workdir / "result.json", json.dumps(found))

    def _pass_on(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            self._fraction = float(said["fraction"])
        except (ValueError, KeyError, TypeError):
            return  # A library printed to stdout.
        self._say({**said, "where": self._where})

    def _tell(self, words: str) -> None:
        self._say(
            {"kind": "progress", "fraction": self._fraction, "message": words, "metrics": {}, "where": self._where}
        )

    def _lost(self, losses: int, lost: Lost) -> str:
        more = max(2 * self._order.takes.memory_bytes, 4 << 30) / (1 << 30)
        return (
            f"the {self._kind} job lost its worker {losses} times without getting on ({lost}); where memory was short, let it take"
            f" more: --ray-resources {self._kind}=cpu:{self._order.takes.cpus},memory_gib:{more:g}"
        )


def main() -> int:
    """Do one job on a cluster; the exit code is that of its process there."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the hub, which ends its jobs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    kind, workdir, order = sys.argv[1], Path(sys.argv[2]), Order.read(sys.argv[3])
    claim = Claim(workdir)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What Ray prints goes to the log.

    def say(line: dict[str, Any]) -> None:
        claim.demand()
        print(json.dumps(line), file=out, flush=True)

    try:
        code = Driver(kind, workdir, order, say, claim).run()
    except MilongaError as error:
        claim.demand()
        write_atomically(workdir / "result.json", json.dumps({"error": str(error)}))
        return 0
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
