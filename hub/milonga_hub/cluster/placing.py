"""Get a place for a job on a Ray cluster: an actor on a node."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from milonga_hub.cluster import rules
from milonga_hub.cluster.actor import StationActor
from milonga_hub.cluster.station import held_bytes
from milonga_hub.cluster.versions import versions
from milonga_hub.jobs import JobError

# Below that, asking where files are takes longer than sending them.
_WORTH_ASKING_BYTES = 4 << 20
_MOST_ASKED = 64
_ANSWER_SECONDS = 10.0
# How often a job that waits says so.
WAITING_SECONDS = 5.0
ENDING_SECONDS = 5.0


class Lost(Exception):
    """A worker or its node is gone."""


def answer(reference: Any) -> Any:
    """Return what a node answers. Raises Lost where it is gone, JobError where it says why it cannot."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise JobError(f"a node of the Ray cluster failed: {_last_line(error)}") from error
    except ActorDiedError as error:
        if "creation task" in str(error):
            raise JobError(
                f"a node of the Ray cluster cannot do jobs: {_last_line(error)}; install on it what the hub has: pip install"
                " 'milonga-hub[ray]'"
            ) from error
        raise Lost(_reason(error)) from error
    except RayError as error:
        raise Lost(_reason(error)) from error


class Place(ABC):
    """The stations of one job: the first leads, and `where` says on which node it is."""

    def __init__(self, kind: str, takes: rules.Resources) -> None:
        self._kind, self._takes = kind, takes
        self._name = f"{kind}-{uuid.uuid4().hex}"
        self.abouts: list[dict[str, Any]] = []
        self.where = ""

    def open(self, sizes: Mapping[str, int], tell: Callable[[str], None]) -> None:
        """Wait for a place and take it, near files that are needed (sizes by digest) where one is free there.

        Raises JobError where no node has what the job takes, or one has other versions; Lost.
        """
        nodes = [rules.node_of(one) for one in ray.nodes() if one["Alive"]]
        if why := rules.lacking(nodes, self._kind, self._takes):
            raise JobError(why)
        self._take(nodes, sizes)
        asked = [self._call(rank, "about") for rank in range(self._takes.workers)]
        while not self._all_ready(asked, WAITING_SECONDS):
            tell(f"waiting for {self._takes} of the Ray cluster")
        self.abouts = [answer(one) for one in asked]
        addresses = {node.id: node.address for node in nodes}
        for about in self.abouts:
            about["address"] = addresses.get(about["node"], about["host"])
            _check_versions(about)
        first, more = self.abouts[0], len(self.abouts) - 1
        self.where = f"{first['host']} ({first['address']}, node {first['node'][:8]})" + (
            f" and {more} more" if more else ""
        )

    def ask(self, rank: int, name: str, *arguments: Any) -> Any:
        """Return what one station answers. Raises Lost, JobError."""
        return self._answers([self._call(rank, name, *arguments)])[0]

    def each(self, name: str, *arguments: Any) -> list[Any]:
        """Ask all at once and return their answers, the leader's first."""
        return self._answers([self._call(rank, name, *arguments) for rank in range(self._takes.workers)])

    def _answers(self, asked: list[Any]) -> list[Any]:
        while not self._all_ready(asked, WAITING_SECONDS):
            pass
        return [answer(one) for one in asked]

    @abstractmethod
    def failed(self) -> None:
        """Raise Lost where a job that failed did so because it lost a worker, which says more than its exit code."""

    @abstractmethod
    def close(self) -> None:
        """End what runs and give the places back."""

    @abstractmethod
    def _take(self, nodes: Sequence[rules.Node], sizes: Mapping[str, int]) -> None:
        """Ask the cluster for the places."""

    @abstractmethod
    def _call(self, rank: int, name: str, *arguments: Any) -> Any:
        """Ask one station, and return the reference of its answer."""

    @abstractmethod
    def _all_ready(self, asked: list[Any], seconds: float) -> bool:
        """Wait for answers, but not longer; return whether all are there. Raises Lost where they will never be."""


class Alone(Place):
    """One actor."""

    def __init__(self, kind: str, takes: rules.Resources) -> None:
        super().__init__(kind, takes)
        self._actor: Any = None

    def _take(self, nodes: Sequence[rules.Node], sizes: Mapping[str, int]) -> None:
        wanted = {"num_cpus": self._takes.cpus, "num_gpus": self._takes.gpus, "max_restarts": 0}
        if self._takes.memory_bytes:
            wanted["memory"] = self._takes.memory_bytes
        near = _nearest(nodes, self._takes, sizes)
        # Spilling: another node that is free is better than one that is near and busy.
        place = {"scheduling_strategy": NodeAffinitySchedulingStrategy(near, True, True)} if near else {}
        self._actor = ray.remote(StationActor).options(**wanted, **place).remote(self._name)

    def _call(self, rank: int, name: str, *arguments: Any) -> Any:
        return getattr(self._actor, name).remote(*arguments)

    def _all_ready(self, asked: list[Any], seconds: float) -> bool:
        return len(ray.wait(asked, num_returns=len(asked), timeout=seconds)[0]) == len(asked)

    def failed(self) -> None:
        """Its exit code says all: an actor that is lost says nothing."""

    def close(self) -> None:
        if self._actor is not None:
            ray.wait([self._actor.close.remote()], timeout=ENDING_SECONDS)
            ray.kill(self._actor)


def _nearest(nodes: Sequence[rules.Node], wanted: rules.Resources, sizes: Mapping[str, int]) -> str | None:
    able = [node for node in nodes if node.has.times(wanted)]
    if len(able) < 2 or len(able) > _MOST_ASKED or sum(sizes.values()) < _WORTH_ASKING_BYTES:
        return None
    ask = ray.remote(held_bytes)
    asked = {
        ask.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, False)).remote(sizes): node
        for node in able
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
    held: dict[str, int] = {}
    for one in answered:
        try:
            held[asked[one].id] = ray.get(one)
        except RayError:
            continue  # The actor that is placed there will say what is wrong.
    return rules.preferred(able, wanted, held)


def _check_versions(about: Mapping[str, Any]) -> None:
    other = rules.differences(versions(), about["versions"])
    if other:
        raise JobError(
            f"{about['host']} ({about['address']}) of the Ray cluster has {', '.join(other)}: results would differ; install on"
            " all nodes what the hub has"
        )


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def _reason(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return first.rstrip(".") or type(error).__name__
