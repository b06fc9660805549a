"""Whose things are: asked by the door for keys that are limited to projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from milonga_hub.alerts.service import AlertService
from milonga_hub.errors import NotFound
from milonga_hub.paging import MAX_PAGE_SIZE, all_rows
from milonga_hub.projects.service import ProjectService
from milonga_hub.rollouts.service import RolloutService


class Owners:
    def __init__(self, projects: ProjectService, rollouts: RolloutService, alerts: AlertService) -> None:
        self._projects, self._rollouts, self._alerts = projects, rollouts, alerts

    def of_rollout(self, id: str) -> str:
        """Return the project of a rollout, "" where there is none."""
        try:
            return self._rollouts.get(id).project
        except NotFound:
            return ""

    def of_alert(self, id: str) -> str:
        """Return the project of an alert, "" where there is none."""
        try:
            return self._alerts.get(id).project
        except NotFound:
            return ""

    def datasets(self, projects: Sequence[str]) -> Mapping[str, bool]:
        """Return the data sets that these projects use, and whether no other project does."""
        users: dict[str, set[str]] = {}
        for project in all_rows(lambda token: self._projects.list(MAX_PAGE_SIZE, token)):
            if project.spec.dataset:
                users.setdefault(project.spec.dataset, set()).add(project.name)
        return {name: used <= set(projects) for name, used in users.items() if used & set(projects)}
