"""A place for each worker of a team, which Ray Train starts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from milonga_hub.cluster import rules
from milonga_hub.cluster.desk import Desk
from milonga_hub.cluster.member import Captain
from milonga_hub.cluster.placing import ENDING_SECONDS, Lost, Place, answer
from milonga_hub.jobs import JobError

# Ray Train looks every two seconds whether its workers live.
_SECONDS_TO_NOTICE = 15.0
# Workers that were asked to close end by themselves, and their places are free then.
_SECONDS_TO_PART = 10.0


class Team(Place):
    """Workers of Ray Train, each with a station; all or none, so that two teams never wait for each other's half."""

    def __init__(self, kind: str, takes: rules.Resources) -> None:
        super().__init__(kind, takes)
        self._desk: Any = None
        self._captain: Any = None
        self._training: Any = None

    def _take(self, nodes: Sequence[rules.Node], sizes: Mapping[str, int]) -> None:
        # Where the hub's versions are: a head may have Ray alone.
        able = next(node for node in nodes if node.has.times(self._takes))
        beside = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(able.id, soft=True)}
        self._desk = ray.remote(Desk).options(**beside).remote(self._takes.workers)
        self._captain = ray.remote(Captain).options(**beside).remote()
        self._training = self._captain.train.remote(self._name, self._kind, self._takes, self._desk)

    def _call(self, rank: int, name: str, *arguments: Any) -> Any:
        return self._desk.ask.remote(rank, name, *arguments)

    def _all_ready(self, asked: list[Any], seconds: float) -> bool:
        # One at a time is there when all are: what was asked of a worker that is gone would be waited for for ever.
        ready, waiting = ray.wait([*asked, self._training], num_returns=len(asked), timeout=seconds)
        if self._training in ready and any(one in waiting for one in asked):
            raise self._ended()
        return all(one in ready for one in asked)

    def failed(self) -> None:
        # Those that are left fail at once when one is gone, and say so before Ray Train does.
        if ray.wait([self._training], timeout=_SECONDS_TO_NOTICE)[0]:
            raise self._ended()

    def _ended(self) -> Exception:
        try:
            return Lost(answer(self._training) or "the team ended early")
        except (Lost, JobError) as error:
            return error

    def close(self) -> None:
        if self._training is None:
            return
        closing = [self._call(rank, "close") for rank in range(self._takes.workers)]
        done, _ = ray.wait([*closing, self._training], num_returns=len(closing), timeout=ENDING_SECONDS)
        if self._training not in done:
            ray.wait([self._training], timeout=_SECONDS_TO_PART)
        for actor in (self._captain, self._desk):
            ray.kill(actor)
