"""Runs as people and programs see them: start, approve, follow, cancel, resume."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, or_, select

from milonga_hub.callers import by_whom
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import FailedPrecondition, NotFound
from milonga_hub.events import EventBus
from milonga_hub.models.models import ImportedModel
from milonga_hub.paging import of_projects, page
from milonga_hub.projects.models import ProjectSpec
from milonga_hub.projects.service import ProjectService
from milonga_hub.runs.models import Candidate, Comparison, Run, RunState, Stage, StageState, Trigger
from milonga_hub.runs.rules import AUTOMATIC, ENDED, reopened, stages_of

# RunService.list hides the builtin inside the class.
_Runs = list[Run]
_Candidates = list[Candidate]
_History = list[dict[str, float]]


class RunService:
    """Keeps the record of runs; the executor in executor.py does the work and writes what it does here."""

    def __init__(self, database: Database, events: EventBus, projects: ProjectService) -> None:
        self._database = database
        self._events = events
        self._projects = projects
        # Numbers of runs are given out one at a time.
        self._numbering = database.turn("runs")
        # The executor's ears: called with the name of a run that may begin, or must end.
        self.on_queued: Callable[[], None] = lambda: None
        self.on_cancelled: Callable[[str], None] = lambda name: None
        # Raises QuotaExceeded where a project may start no run.
        self.may_start: Callable[[str], None] = lambda project: None

    def start(
        self, project: str, trigger: Trigger, reason: str, request_id: str = "", imported: ImportedModel | None = None
    ) -> Run:
        """Queue a run with the project's present spec. One runs at a time for each project.

        One that no person started waits for approval, where the project demands it. `imported` is a model that was trained
        elsewhere. Raises FailedPrecondition where there is nothing to train on.
        """
        spec = self._projects.get(project).spec
        if not spec.dataset and imported is None:
            raise FailedPrecondition(
                f"{project} has no data set to train on; name one (spec.dataset), or send it a model: milonga models import"
                f" {project} FILE.onnx"
            )
        waits = spec.retraining.approval and trigger in AUTOMATIC
        with self._numbering, self._database.session() as session:
            known = self._requested(session, project, request_id)
            if known is not None:
                return known
            self.may_start(project)
            numbers = session.exec(select(Run.number).where(Run.project == project)).all()
            number = max(numbers, default=0) + 1
            run = Run(
                name=f"projects/{project}/runs/{number}",
                project=project,
                number=number,
                state=RunState.AWAITING_APPROVAL if waits else RunState.QUEUED,
                trigger=trigger,
                reason=reason,
                spec_json=spec.model_dump_json(),
                stages=stages_of(spec, trigger),
                request_id=request_id,
                task=spec.task,
                imported=imported,
            )
            session.add(run)
        self._tell(run)
        self.on_queued()
        return run

    def is_known(self, project: str, request_id: str) -> bool:
        """Whether a run was started by this request."""
        return self.requested(project, request_id) is not None

    def requested(self, project: str, request_id: str) -> Run | None:
        """Return the run that this request started, None where there is none."""
        with self._database.session() as session:
            return self._requested(session, project, request_id)

    @staticmethod
    def _requested(session: Session, project: str, request_id: str) -> Run | None:
        if not request_id:
            return None
        return session.exec(select(Run).where(Run.request_id == request_id, Run.project == project)).first()

    def get(self, name: str) -> Run:
        with self._database.session() as session:
            run = session.get(Run, name)
        if run is None:
            raise NotFound(f"there is no run {name}; list them with: milonga runs list")
        return run

    def list(
        self, project: str = "", page_size: int = 0, page_token: str = "", projects: Collection[str] | None = None
    ) -> tuple[_Runs, str]:
        """Return runs, the newest first."""
        statement = of_projects(select(Run), col(Run.project), projects)
        if project:
            statement = statement.where(Run.project == project)
        with self._database.session() as session:
            return page(session, statement, col(Run.created_at), page_size, page_token, newest_first=True)

    def latest(self, project: str) -> Run | None:
        runs, _ = self.list(project, page_size=1)
        return runs[0] if runs else None

    def since(self, project: str, moment: datetime) -> _Runs:
        """Return the project's runs that were made or ended since, or are in progress."""
        recent = or_(col(Run.created_at) >= moment, col(Run.ended_at) >= moment, col(Run.state).not_in(ENDED))
        with self._database.session() as session:
            return [*session.exec(select(Run).where(Run.project == project, recent))]

    def ended_since(self, moment: datetime) -> _Runs:
        """Return the runs that have ended since then."""
        recent = select(Run).where(col(Run.ended_at) >= moment, col(Run.state).in_(ENDED))
        with self._database.session() as session:
            return [*session.exec(recent)]

    def unfinished(self) -> _Runs:
        """Return queued and interrupted runs, oldest first; those that wait for approval are neither."""
        idle = {*ENDED, RunState.AWAITING_APPROVAL}
        with self._database.session() as session:
            rows = session.exec(select(Run).where(col(Run.state).not_in(idle)).order_by(col(Run.created_at)))
            return [*rows]

    def awaiting_approval(self) -> _Runs:
        """Return the runs that wait for a person, oldest first."""
        with self._database.session() as session:
            waiting = select(Run).where(Run.state == RunState.AWAITING_APPROVAL).order_by(col(Run.created_at))
            return [*session.exec(waiting)]

    def cancel(self, name: str) -> Run:
        """End the run where it is; resume() goes on from there."""
        run = self.get(name)
        if run.state in ENDED:
            raise FailedPrecondition(f"{name} has ended already ({run.state.lower()})")
        run = self.end(name, RunState.CANCELLED, error=by_whom("cancelled"))
        self.on_cancelled(name)
        return run

    def approve(self, name: str) -> Run:
        """Queue a run that waits for approval. Its reason tells from then on who approved it."""
        run = self._awaiting_approval(name)
        approved = by_whom("approved")
        run = self.change(name, state=RunState.QUEUED, reason=f"{run.reason}; {approved}" if run.reason else approved)
        self.on_queued()
        return run

    def refuse(self, name: str) -> Run:
        """End a run that waits for approval."""
        self._awaiting_approval(name)
        return self.end(name, RunState.CANCELLED, error=by_whom("refused"))

    def _awaiting_approval(self, name: str) -> Run:
        run = self.get(name)
        if run.state is not RunState.AWAITING_APPROVAL:
            why = run.error or run.reason
            raise FailedPrecondition(
                f"{name} does not wait for approval: it is {run.state.lower()}{why and f' ({why})'}"
            )
        return run

    def resume(self, name: str) -> Run:
        """Queue a failed or cancelled run again; finished stages are kept."""
        run = self.get(name)
        if run.state not in (RunState.FAILED, RunState.CANCELLED):
            raise FailedPrecondition(f"{name} is {run.state.lower()}; only failed and cancelled runs can go on")
        run = self.change(name, state=RunState.QUEUED, stages=reopened(run.stages), error="", ended_at=None, outcome="")
        self.on_queued()
        return run

    def candidates(
        self, run: str, device_type: str = "", page_size: int = 0, page_token: str = ""
    ) -> tuple[_Candidates, str]:
        statement = select(Candidate).where(Candidate.run == run)
        if device_type:
            statement = statement.where(Candidate.device_type == device_type)
        with self._database.session() as session:
            return page(session, statement, col(Candidate.key), page_size, page_token)

    def history(self, run: str) -> _History:
        """Return the points of the training curve."""
        return self.get(run).history

    # What the executor writes.

    def change(self, name: str, **values: object) -> Run:
        """Set fields of the run and tell the listeners."""
        with self._database.session() as session:
            run = session.get_one(Run, name)
            for field, value in values.items():
                setattr(run, field, value)
            session.add(run)
        self._tell(run)
        return run

    def change_stage(self, name: str, stage: str, **values: object) -> Run:
        """Set fields of one stage of the run and tell the listeners."""
        stages = [item.model_copy(update=values) if item.name == stage else item for item in self.get(name).stages]
        return self.change(name, stages=stages)

    def end(self, name: str, state: RunState, *, error: str = "", outcome: str = "") -> Run:
        """Close the run and its open stage; a run that has ended stays as it is."""
        run = self.get(name)
        if run.state in ENDED:
            return run
        now = utc_now()
        stages = [_closed(stage, state, error) for stage in run.stages]
        return self.change(name, state=state, stages=stages, error=error, outcome=outcome, ended_at=now)

    def add_training_points(self, name: str, points: Sequence[dict[str, float]]) -> None:
        """Add epochs to the curve; an epoch that is told twice stands once."""
        known = self.get(name).history
        by_epoch = {point.get("epoch", 0.0): point for point in [*known, *points]}
        history = [by_epoch[epoch] for epoch in sorted(by_epoch)]
        if history != known:
            self.change(name, history=history)

    def keep_comparison(self, name: str, comparison: Comparison) -> None:
        """Keep the comparison in place of an earlier one for its device type."""
        others = [one for one in self.get(name).comparisons if one.device_type != comparison.device_type]
        self.change(name, comparisons=sorted([*others, comparison], key=lambda one: one.device_type))

    def keep_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Store or replace candidates by their key."""
        with self._database.session() as session:
            for candidate in candidates:
                session.merge(candidate)

    def change_candidate(self, key: str, **values: Any) -> None:
        """Set fields of a candidate that is kept."""
        with self._database.session() as session:
            candidate = session.get_one(Candidate, key)
            for name, value in values.items():
                setattr(candidate, name, value)

    def spec(self, name: str) -> ProjectSpec:
        """Return the project's spec as it was when the run started."""
        return ProjectSpec.model_validate_json(self.get(name).spec_json)

    def _tell(self, run: Run) -> None:
        self._events.publish(run.name, run)


def _closed(stage: Stage, run: RunState, error: str) -> Stage:
    """Return the stage as it is once its run has ended so."""
    if run is RunState.SUCCEEDED and stage.state in (StageState.PENDING, StageState.RUNNING):
        return stage.model_copy(update={"state": StageState.SKIPPED})
    if stage.state is StageState.RUNNING:
        return stage.model_copy(update={"state": StageState(run.value), "ended_at": utc_now(), "message": error})
    return stage
