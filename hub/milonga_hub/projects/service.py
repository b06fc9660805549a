"""Projects: what users want, applied as often as they like."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

from sqlmodel import col, select

from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import FailedPrecondition, NotFound
from milonga_hub.events import EventBus
from milonga_hub.paging import of_projects, page
from milonga_hub.projects import rules
from milonga_hub.projects.models import Project, ProjectChange, ProjectSpec
from milonga_hub.tasks import Task

# ProjectService.list hides the builtin inside the class.
_Names = list[str]


class ProjectService:
    def __init__(self, database: Database, events: EventBus, datasets: DatasetService) -> None:
        self._database = database
        self._events = events
        self._datasets = datasets

    def apply(
        self, name: str, spec: ProjectSpec, dry_run: bool = False, request_id: str = "", *, is_limited: bool = False
    ) -> tuple[Project, list[str]]:
        """Create the project or change its spec; return it and what changed. Equal specs change nothing.

        Who is limited to some projects makes none, and gives none other devices or data.

        A repeated request gets the changes of the first one again. With `dry_run` nothing is written. Raises InvalidInput, or FailedPrecondition where the data set is
        missing or for another task, or the hub lacks what the task needs.
        """
        rules.check(name, spec)
        if spec.dataset and not dry_run:
            self._need_dataset(spec)
            _need_detector(spec)
        with self._database.session() as session:
            known = session.get(Project, name)
            if is_limited:
                rules.check_limited(name, known.spec if known else None, spec)
            answered = session.get(ProjectChange, (name, request_id))
            if known is not None and answered is not None and not dry_run:
                return known, answered.changes
            if known is not None:
                rules.check_change(known.spec, spec)
            changed = rules.changes(known.spec if known else None, spec)
            if dry_run or not changed:
                return known or Project(name=name, spec=spec), changed
            project = known or Project(name=name, spec=spec, spec_generation=0)
            project.spec, project.updated_at = spec, utc_now()
            project.spec_generation += 1
            session.add(project)
            if request_id:
                session.add(ProjectChange(project=name, request_id=request_id, changes=changed))
        self._events.publish(f"projects/{name}", project)
        return project, changed

    def _need_dataset(self, spec: ProjectSpec) -> None:
        try:
            found = self._datasets.get(spec.dataset)
        except NotFound as error:
            raise FailedPrecondition(str(error)) from error
        if found.task is not spec.task:
            raise FailedPrecondition(
                f"spec.task is {spec.task}, and the data set {spec.dataset!r} is for {found.task}; change one of them"
            )

    def get(self, name: str) -> Project:
        with self._database.session() as session:
            project = session.get(Project, name)
        if project is None:
            raise NotFound(f"there is no project {name!r}; apply one: milonga apply -f FILE")
        return project

    def list(
        self, page_size: int = 0, page_token: str = "", projects: Collection[str] | None = None
    ) -> tuple[list[Project], str]:
        """Return projects by name, of these alone where some are named."""
        statement = of_projects(select(Project), col(Project.name), projects)
        with self._database.session() as session:
            return page(session, statement, col(Project.name), page_size, page_token)

    def names(self, projects: Collection[str] | None = None) -> _Names:
        """Return the names of all projects, of these alone where some are named."""
        with self._database.session() as session:
            return [
                *session.exec(of_projects(select(Project.name), col(Project.name), projects).order_by(Project.name))
            ]


def _need_detector(spec: ProjectSpec) -> None:
    if spec.task is Task.DETECTION and find_spec("ultralytics") is None:
        raise FailedPrecondition("detection needs ultralytics on the hub: pip install 'milonga-hub[yolo]'")
