"""The networks that a run looks at closely, and which of them each device type gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from milonga_hub.runs.models import Candidate
from milonga_hub.runs.plan import TypePlan
from milonga_hub.runs.work import Work
from milonga_hub.search import rules as search_rules


@dataclass(frozen=True)
class Choice:
    """The subnet that a device type gets, and those that keep its limits as well, the best first, for where no build of it can be used."""

    type: TypePlan
    candidate: dict[str, Any]
    measured_ms: float | None
    others: tuple[Choice, ...] = ()

    @property
    def subnet(self) -> str:
        return str(self.candidate["subnet"])

    def next(self) -> Choice:
        """Return the best of the others, with the rest behind it."""
        return replace(self.others[0], others=self.others[1:])


@dataclass(frozen=True)
class Specialised:
    """What the search ended with: choices by type, and why other types have none."""

    choices: Mapping[str, Choice]
    impossible: Mapping[str, str]


def keep(
    work: Work,
    device_type: str,
    rows: Sequence[Mapping[str, Any]],
    times: Mapping[search_rules.Timed, float],
    chosen: Mapping[str, Any] | None,
    front: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Store what was predicted, evaluated and measured of each, for people; later rows stand for earlier ones."""
    on_front = {search_rules.timed(item) for item in front}
    by_key = {search_rules.timed(item): item for item in rows}
    fields = set(Candidate.model_fields)
    work.services.runs.keep_candidates(
        [
            Candidate(
                **{key: value for key, value in row.items() if key in fields},
                key=_key(work, device_type, timed),
                run=work.run.name,
                device_type=device_type,
                measured_ms=times.get(timed),
                on_front=timed in on_front,
                chosen=chosen is not None and timed == search_rules.timed(chosen),
            )
            for timed, row in by_key.items()
        ]
    )


def change(work: Work, device_type: str, row: Mapping[str, Any], **values: Any) -> None:
    """Change what people see of one that was kept."""
    work.services.runs.change_candidate(_key(work, device_type, search_rules.timed(row)), **values)


def _key(work: Work, device_type: str, timed: search_rules.Timed) -> str:
    return f"{work.run.name}|{device_type}|{'|'.join(timed)}"
