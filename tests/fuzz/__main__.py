"""`make fuzz`: a million inputs that nobody means well at every door of hub and agent. None may do more than be refused.

Input n of a door is always the same; one that is found can be offered again by --door and --first. Exit code 1 where one was found.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.doors import Door, Doors, refused

_MEMORY = Path("/dev/shm")
_TELL_SECONDS = 5.0
# A door that anyone may knock at must not be held by one input for longer.
SLOW_SECONDS = 5.0


@dataclass
class Told:
    """What came of one door's inputs."""

    door: str
    inputs: int = 0
    refused: int = 0
    slowest_seconds: float = 0.0
    # Where it came to an end that is no refusal -> the first input that came there, and how many did.
    found: dict[str, list[str]] = field(default_factory=dict)


def knock(door: Door, first: int, count: int) -> Told:
    """Offer inputs `first` to `first + count` of a door."""
    told = Told(door.name)
    for number in range(first, first + count):
        began = time.process_time()
        try:
            told.refused += refused(door, random.Random(f"{door.name}/{number}"))
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {last.filename}:{last.lineno}"
            told.found.setdefault(place, []).append(f"input {number} of {door.name}:\n{traceback.format_exc()}")
        took = time.process_time() - began
        if took > SLOW_SECONDS:
            told.found.setdefault("slow", []).append(f"input {number} of {door.name} took {took:.1f} s")
        told.slowest_seconds = max(told.slowest_seconds, took)
        told.inputs += 1
    return told


def shares(doors: list[Door], inputs: int) -> list[tuple[Door, int]]:
    """Return how many inputs each door gets."""
    whole = sum(door.share for door in doors)
    return [(door, -(-inputs * door.share // whole)) for door in doors]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many in all (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input of each door")
    parser.add_argument("--door", default="", help="only this door")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    found: list[list[str]] = []
    offered = 0
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        doors = Doors(Path(folder))
        try:
            chosen = [door for door in doors.all() if given.door in ("", door.name)]
            if not chosen:
                parser.error(f"there is no door {given.door!r}: {', '.join(door.name for door in doors.all())}")
            for door, count in shares(chosen, given.inputs):
                began = time.process_time()
                told = knock(door, given.first, count)
                seconds = time.process_time() - began
                print(
                    f"{told.door:22} {told.inputs:8,} inputs, {told.refused / told.inputs:6.1%} refused, {len(told.found)} flaws,"
                    f" slowest {told.slowest_seconds * 1000:.0f} ms, {seconds:.0f} s in all",
                    flush=True,
                )
                offered += told.inputs
                found += told.found.values()
        finally:
            doors.close()
    for each in found:
        print(f"\n{len(each)} inputs, the first of them {each[0]}")
    print(f"{offered:,} inputs at {len(chosen)} doors: {sum(map(len, found))} did more than be refused")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
