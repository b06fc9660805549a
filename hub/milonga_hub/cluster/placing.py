"""Get a place for a job on a Ray cluster: an actor on a node, or one for each worker of a team."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

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
_WAITING_SECONDS = 5.0
_ENDING_SECONDS = 5.0


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


class Stations:
    """The actors of one job: the first leads, and `where` says on which node it is."""

    def __init__(self, kind: str, takes: rules.Resources) -> None:
        self._kind, self._takes = kind, takes
        self._actors: list[Any] = []
        self._group: Any = None
        self.abouts: list[dict[str, Any]] = []
        self.where = ""

    def open(self, sizes: Mapping[str, int], tell: Callable[[str], None]) -> None:
        """Wait for a place and take it, near files that are needed (sizes by digest) where one is free there.

        Raises JobError where no node has what the job takes, or one has other versions; Lost.
        """
        nodes = [rules.node_of(one) for one in ray.nodes() if one["Alive"]]
        if why := rules.lacking(nodes, self._kind, self._takes):
            raise JobError(why)
        wanted = {"num_cpus": self._takes.cpus, "num_gpus": self._takes.gpus, "max_restarts": 0}
        if self._takes.memory_bytes:
            wanted["memory"] = self._takes.memory_bytes
        name = uuid.uuid4().hex
        for rank, strategy in enumerate(self._strategies(nodes, sizes, tell)):
            actor = ray.remote(StationActor).options(**wanted, **strategy).remote(f"{self._kind}-{name}-{rank}")
            self._actors.append(actor)
        self._wait([actor.about.remote() for actor in self._actors], tell)
        addresses = {node.id: node.address for node in nodes}
        for about in self.abouts:
            about["address"] = addresses.get(about["node"], about["host"])
            _check_versions(about)
        first, more = self.abouts[0], len(self.abouts) - 1
        self.where = f"{first['host']} ({first['address']}, node {first['node'][:8]})" + (
            f" and {more} more" if more else ""
        )

    def _strategies(
        self, nodes: Sequence[rules.Node], sizes: Mapping[str, int], tell: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Return the options that place each actor."""
        if self._takes.workers == 1:
            near = _nearest(nodes, self._takes, sizes)
            # Spilling: another node that is free is better than one that is near and busy.
            return [{"scheduling_strategy": NodeAffinitySchedulingStrategy(near, True, True)}] if near else [{}]
        bundle: dict[str, float] = {"CPU": self._takes.cpus}
        bundle |= {"GPU": self._takes.gpus} if self._takes.gpus else {}
        bundle |= {"memory": self._takes.memory_bytes} if self._takes.memory_bytes else {}
        # All or none, so that two teams never wait for each other's half.
        self._group = placement_group([bundle] * self._takes.workers, strategy="SPREAD")
        ready = self._group.ready()
        while not ray.wait([ready], timeout=_WAITING_SECONDS)[0]:
            tell(f"waiting for {self._takes} of the Ray cluster")
        return [
            {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, rank)}
            for rank in range(self._takes.workers)
        ]

    def _wait(self, references: list[Any], tell: Callable[[str], None]) -> None:
        while len(ray.wait(references, num_returns=len(references), timeout=_WAITING_SECONDS)[0]) < len(references):
            tell(f"waiting for {self._takes} of the Ray cluster")
        self.abouts = [answer(one) for one in references]

    def each(self, ask: Callable[[Any], Any]) -> list[Any]:
        """Ask all at once and return their answers, the leader's first."""
        return [answer(one) for one in [ask(actor) for actor in self._actors]]

    def teams(self) -> list[dict[str, str]]:
        """Return by rank what torch reads of a team in the environment, as torchrun would set it; nothing for one alone."""
        if len(self._actors) == 1:
            return [{}]
        port = str(answer(self._actors[0].free_port.remote()))
        known = {"MASTER_ADDR": self.abouts[0]["address"], "MASTER_PORT": port, "WORLD_SIZE": str(len(self._actors))}
        # Each actor sees its own GPUs alone, and counts them from 0.
        return [
            {**known, "RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
            for rank in range(len(self._actors))
        ]

    @property
    def actors(self) -> list[Any]:
        return self._actors

    def close(self) -> None:
        """End what runs and give the places back."""
        if closing := [actor.close.remote() for actor in self._actors]:
            ray.wait(closing, num_returns=len(closing), timeout=_ENDING_SECONDS)
        for actor in self._actors:
            ray.kill(actor)
        if self._group is not None:
            remove_placement_group(self._group)


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
