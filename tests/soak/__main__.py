"""`make soak`: kill an agent at every system call, and cut its power, and see that it comes back with a good bundle; and kill
machines while they join a hub, and see that they join it as the same device.

Goes on where the last one was stopped, unless --again. Ends with exit code 1 where an agent was left broken.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.e2e.processes import System
from tests.soak import kills, lost_writes
from tests.soak.enrolment import Machines
from tests.soak.story import Broken, Scenario, begin, check_dead, check_recovered, fresh, live

ROOT = Path(__file__).parent.parent.parent
# In memory: what lasts is modelled, and fsync would only cost time.
MEMORY = Path("/dev/shm")
_TELL_SECONDS = 5.0


@dataclass(frozen=True)
class Point:
    """One death: "kill" at a stop, "power" after a call of the log; `second` kills the recovery as well."""

    kind: str
    seed: int
    index: int
    second: int = 0


class Stage:
    """A scenario, with all of its points, in a folder that is used again and again."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self._folder = seed, folder / "agent"
        self._template = folder / "template"
        self.scenario = Scenario.of(seed)
        fresh(_made(folder / "empty"), self._template)
        begin(self._template, self.scenario)
        self._fresh()
        stops = kills.run_until(self._live, None)
        assert stops is not None
        self.stops = stops
        check_recovered(self._folder, self.scenario, 0)
        self._fresh()
        signed = folder / "signed"
        signed.write_bytes(pickle.dumps(self.scenario.signed))
        command = [sys.executable, "-m", "tests.soak.story", str(self._folder), str(seed), str(signed)]
        self._log = lost_writes.record(self._folder, command, folder / "log")

    def shuffled(self) -> list[Point]:
        """Return all points, so that any number of them is a fair sample; the same order every time."""
        return sorted(self.points(), key=lambda point: random.Random(repr(point)).random())

    def points(self) -> Iterator[Point]:
        """Yield every stop; every second one dies while it recovers, too. Then every call that changed the disk, twice."""
        for stop in range(1, self.stops + 1):
            second = random.Random(f"{self.seed}/{stop}").randrange(1, self.stops)
            yield Point("kill", self.seed, stop, second if stop % 2 else 0)
        for index in range(2 * len(self._log)):
            yield Point("power", self.seed, index)

    def die(self, point: Point) -> None:
        """Raise Broken where the agent does not come back as it must."""
        if point.kind == "kill":
            self._fresh()
            kills.run_until(self._live, point.index)
        else:
            disk = lost_writes.Disk(self._template)
            for call in self._log[: point.index // 2 + 1]:
                disk.apply(*call)
            fresh(_made(self._folder.parent / "empty"), self._folder)
            disk.crash(self._folder, random.Random(f"{point.seed}/{point.index}"))
        check_dead(self._folder, self.scenario)
        deaths = 1
        if point.second:
            deaths += kills.run_until(self._live, point.second) is None
            check_dead(self._folder, self.scenario)
        self._live()
        check_recovered(self._folder, self.scenario, deaths)

    def _live(self) -> None:
        live(self._folder, self.scenario)

    def _fresh(self) -> None:
        fresh(self._template, self._folder)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class Progress:
    """What was done so far; kept on disk."""

    seed: int = 0
    next: int = 0
    points: int = 0
    broken: int = 0

    @classmethod
    def read(cls, path: Path) -> Progress:
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def soak(wanted: int, path: Path, progress: Progress) -> Progress:
    """Go on until so many points were tried, one scenario after the other."""
    began, told, before = time.monotonic(), 0.0, progress.points
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as memory:
        while progress.points < wanted:
            stage = Stage(progress.seed, Path(memory))
            for number, point in enumerate(stage.shuffled()):
                if number < progress.next or progress.points >= wanted:
                    continue
                try:
                    stage.die(point)
                except Broken as error:
                    progress.broken += 1
                    print(f"\nBROKEN at {point}: {error}", flush=True)
                progress.points, progress.next = progress.points + 1, number + 1
                if time.monotonic() - told > _TELL_SECONDS:
                    told = time.monotonic()
                    progress.write(path)
                    left = (told - began) / (progress.points - before) * (wanted - progress.points)
                    print(
                        f"{progress.points} of {wanted} points, {progress.broken} broken, scenario {progress.seed},"
                        f" about {left / 60:.0f} min left",
                        flush=True,
                    )
            if progress.points < wanted:
                progress.seed, progress.next = progress.seed + 1, 0
    progress.write(path)
    return progress


def join(wanted: int) -> int:
    """Let so many machines die while they join a hub; return how many did not join it afterwards as they should."""
    broken = 0
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as memory, System(Path(memory)) as system:
        system.start_hub()
        machines, told = Machines(system, Path(memory) / "machines"), time.monotonic()
        for number in range(wanted + 1):
            try:
                machines.die(number)
            except Broken as error:
                broken += 1
                print(f"\nBROKEN at machine {number}: {error}", flush=True)
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                print(f"{number} of {wanted} machines joined after they died, {broken} broken", flush=True)
        machines.check()
    return broken


def main() -> int:
    """Run and print figures."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--points", type=int, default=10_000, help="how many deaths in all (default: %(default)s)")
    parser.add_argument(
        "--machines", type=int, default=1_000, help="how many machines die while they join (default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="begin anew")
    parser.add_argument("--progress", type=Path, default=ROOT / ".soak" / "progress.json", help="where it is kept")
    given = parser.parse_args()
    begun = Progress() if given.again else Progress.read(given.progress)
    done = soak(given.points, given.progress, begun)
    print(f"{done.points} deaths in {done.seed + 1} scenarios: {done.broken} agents left broken")
    not_joined = join(given.machines)
    print(f"{given.machines} machines died while they joined: {not_joined} were left broken")
    return 1 if done.broken or not_joined else 0


if __name__ == "__main__":
    sys.exit(main())
