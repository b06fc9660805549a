"""What an agent does on disk, from a bundle that serves to a better one and past a bad one; and what must hold whenever it dies.

The agent's own parts do the work (store, plan, depot, pursuit). Only the engine is a stand-in: loading a bundle means reading
all of its files and comparing their digests. Everything is decided by a seed, so that a point can be reached again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from milonga_agent import plan, trust
from milonga_agent.downloads import Chunks, Offer
from milonga_agent.errors import AgentError, BadBundle
from milonga_agent.files import digest_of_file
from milonga_agent.plan import Outcome, Shadow, State, Step, WantedFile, Wish
from milonga_agent.pursuit import Pursuit, Tell, outcome_of
from milonga_agent.state import Store
from milonga_agent.steps import Depot
from milonga_agent.trusting import Trust
from milonga_hub.errors import NotFound
from milonga_hub.signing.service import SigningService

from tests.signing.attacks import Fetcher

_CHUNK_BYTES = 700


class Broken(AssertionError):
    """An agent was left in a state from which it does not serve the last good bundle."""


@dataclass(frozen=True)
class Scenario:
    """Bundles A (serves already), B (good) and C (fails its probe), some of whose files are the same."""

    blobs: dict[str, bytes]
    wishes: tuple[Wish, Wish, Wish]
    # What the hub has signed when the agent begins, and later: files by their names.
    signed: tuple[dict[str, bytes], dict[str, bytes]]

    @classmethod
    def of(cls, seed: int, signed: Path | None = None) -> Scenario:
        """Make the scenario of a seed. Keys are made anew each time, so another process is given the `signed` of this one."""
        source = random.Random(seed)
        blobs: dict[str, bytes] = {}
        shared = source.randbytes(source.randrange(1, 2000))
        wishes = tuple(_wish(number, source, shared, blobs) for number in (1, 2, 3))
        metadata = _sign(wishes) if signed is None else pickle.loads(signed.read_bytes())
        return cls(blobs, (wishes[0], wishes[1], wishes[2]), metadata)

    @property
    def bad(self) -> str:
        return self.wishes[2].bundle


def _sign(wishes: tuple[Wish, ...]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    states = []
    with tempfile.TemporaryDirectory() as folder:
        hub = SigningService(Path(folder))
        hub.prepare()
        for some in (wishes[:1], wishes[1:]):
            hub.sign("digits", {wish.bundle: wish.files[-1].size_bytes for wish in some})
            states.append({path.name: path.read_bytes() for path in (Path(folder) / "metadata").iterdir()})
            # A device that was away follows the keys.
            hub.rotate("root", [], 1)
    return states[0], states[1]


def _wish(generation: int, source: random.Random, shared: bytes, blobs: dict[str, bytes]) -> Wish:
    contents = {"shared.bin": shared}
    for index in range(source.randrange(1, 4)):
        folder = source.choice(["", "parts/"])
        contents[f"{folder}{index}.bin"] = source.randbytes(source.randrange(1, 3000))
    listed = [{"path": path, "digest": _digest(data)} for path, data in contents.items()]
    contents["manifest.json"] = json.dumps({"project": "digits", "version": generation, "files": listed}).encode()
    blobs.update({_digest(data): data for data in contents.values()})
    files = tuple(WantedFile(path, _digest(data), len(data)) for path, data in contents.items())
    return Wish(generation, files[-1].digest, files, f"models/digits/versions/{generation}", "digits", shadow=Shadow())


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class _Engine:
    """Serves a bundle whose files are what their manifest says; refuses the one that is bad."""

    def __init__(self, bad: str) -> None:
        self._bad = bad
        self._serves = ""

    async def prepare(self, wish: Wish, bundle: Path, slowest_ms: float | None = None) -> None:
        demand_whole(bundle, wish)
        if wish.bundle == self._bad:
            raise BadBundle("the probe's outputs differ")

    async def shadow(self, wish: Wish, bundle: Path, tell: Tell) -> str:
        demand_whole(bundle, wish)
        return "as it was made up"

    async def activate(self, wish: Wish, bundle: Path) -> None:
        demand_whole(bundle, wish)
        self._serves = wish.bundle

    async def clear(self) -> None:
        self._serves = ""

    async def demand(self, wish: Wish) -> None:
        if self._serves != wish.bundle:
            raise BadBundle(f"{self._serves!r} serves")


class _Line:
    """Sends blobs in pieces, and says of each chunk what it should be."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self._blobs = blobs

    async def fetch(self, digest: str, offset: int, length: int = 0) -> AsyncIterator[bytes]:
        data = self._blobs[digest]
        end = offset + length if length else len(data)
        for start in range(offset, end, _CHUNK_BYTES):
            yield data[start : min(end, start + _CHUNK_BYTES)]

    async def offer(self, digest: str, held: Sequence[str]) -> Offer:
        data = self._blobs[digest]
        starts = range(0, len(data), _CHUNK_BYTES)
        digests = tuple(hashlib.sha256(data[start : start + _CHUNK_BYTES]).digest() for start in starts)
        return Offer(Chunks(len(data), _CHUNK_BYTES, digests))


def begin(folder: Path, scenario: Scenario) -> None:
    """Make the folder of an agent that serves A."""
    Trust(folder / "trust").begin(scenario.signed[0]["1.root.json"])
    _live(folder, scenario, scenario.wishes[:1], scenario.signed[0])


def live(folder: Path, scenario: Scenario) -> None:
    """Start the agent and let it do all that the hub wishes."""
    _live(folder, scenario, scenario.wishes[1:], scenario.signed[1])


def _live(folder: Path, scenario: Scenario, wishes: tuple[Wish, ...], signed: dict[str, bytes]) -> None:
    asyncio.run(_pursue(folder, scenario, wishes, signed))


async def _pursue(folder: Path, scenario: Scenario, wishes: tuple[Wish, ...], signed: dict[str, bytes]) -> None:
    store, depot = Store(folder), Depot(folder)

    def serve(name: str) -> bytes:
        if name not in signed:
            raise NotFound(name)
        return signed[name]

    async def check(wish: Wish) -> None:
        # In this process, so that it dies at the system calls of this as well.
        target = f"{depot.project(wish)}/{wish.bundle.partition(':')[2]}"
        trust.verify(folder / "trust", target, wish.bundle, wish.files[-1].size_bytes, Fetcher(serve))

    async def build(digest: str, bundle: Path) -> None:
        """None of these bundles has anything that only a device can build."""

    engine = _Engine(scenario.bad)
    pursuit = Pursuit(depot, engine, _Line(scenario.blobs), check, build)

    def keep(new: State) -> State:
        store.keep_state(new)
        return new

    # In the order in which assignments.py and upkeep.py do it.
    state = keep(plan.restart(store.state()))
    if state.active.bundle:
        state = keep(plan.start(state))
        await engine.activate(state.active, depot.bundle(state.active.bundle))
    if state.generation:
        depot.collect([*state.kept])
    for wish in wishes:
        state = plan.accept(state, wish)
        while state.position.step is not None:
            state = keep(await _step(pursuit, keep(state)))
        depot.collect([*state.kept])
    keep(plan.steady(state))


async def _step(pursuit: Pursuit, state: State) -> State:
    assert state.position.step is not None
    try:
        await pursuit.perform(state, lambda fraction, said="": None)
    except (AgentError, OSError) as error:
        return plan.advance(state, outcome_of(state.position.step, error), str(error))
    return plan.advance(state, Outcome.SUCCEEDED)


def demand_whole(bundle: Path, wish: Wish) -> None:
    """Raise BadBundle unless all files of the bundle are there, each with its digest."""
    for file in wish.files:
        path = bundle / file.path
        if not path.is_file() or digest_of_file(path) != file.digest:
            raise BadBundle(f"{path} is not what the manifest says")


def check_dead(folder: Path, scenario: Scenario) -> None:
    """Raise Broken unless an agent that starts from this folder serves a good bundle at once."""
    try:
        state = Store(folder)._state()
    except (AgentError, KeyError, TypeError, ValueError) as error:
        raise Broken(f"the state cannot be read: {error}") from error
    if state.active.bundle not in {wish.bundle for wish in scenario.wishes[:2]}:
        raise Broken(f"{state.active.model_version or 'nothing'} is to be served")
    depot = Depot(folder)
    for wish in (state.active, state.previous):
        if wish.bundle:
            _demand(depot, wish)
    known = {wish.bundle.partition(":")[2]: wish for wish in scenario.wishes}
    for path in (folder / "bundles").iterdir():
        if not path.name.startswith("."):
            _demand(depot, known[path.name])


def _demand(depot: Depot, wish: Wish) -> None:
    try:
        demand_whole(depot.bundle(wish.bundle), wish)
    except BadBundle as error:
        raise Broken(str(error)) from error


def check_recovered(folder: Path, scenario: Scenario, deaths: int) -> None:
    """Raise Broken unless the agent, after it could work in peace, has brought everything to its end."""
    check_dead(folder, scenario)
    state = Store(folder).state()
    if state.position.step is not None or state.generation != scenario.wishes[-1].generation:
        raise Broken(f"it stopped at {state.position} of generation {state.wish.generation}")
    # A step at which the agent dies twice is given up: the bundle may be what kills it.
    if deaths < 2 and state.active != scenario.wishes[1]:
        raise Broken(f"{state.active.model_version} serves, and {scenario.wishes[1].model_version} is better")
    kept = {wish.bundle.partition(":")[2] for wish in state.kept if wish.bundle}
    left = {path.name for path in (folder / "bundles").iterdir()}
    if left != kept:
        raise Broken(f"left over: {sorted(left - kept)}; missing: {sorted(kept - left)}")
    if state.position.step is Step.ROLL_BACK:
        raise Broken("it still rolls back")


def fresh(template: Path, folder: Path) -> Path:
    """Return the folder, as the template is."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)
    return folder


if __name__ == "__main__":
    if os.environ.get("MILONGA_SOAK_FORGETFUL"):
        # For the test of the test: as if somebody had left out what makes writes last.
        setattr(os, "fsync", lambda descriptor: None)  # noqa: B010 -- mypy wants the very name of its argument
    live(Path(sys.argv[1]), Scenario.of(int(sys.argv[2]), Path(sys.argv[3])))
