"""Pictures of a data set that somebody should look at: those that look alike, and those whose label may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milonga_hub.datasets.models import DatasetVersion
from milonga_hub.datasets.rules import Sample
from milonga_hub.web.pages.examples import Example, examples
from milonga_hub.web.services import HubServices

_SHOWN_GROUPS, _SHOWN_OF_GROUP = 12, 4
# A network that is less sure than this is wrong now and then.
_SURE = 0.8


@dataclass(frozen=True)
class Alike:
    """Some pictures that look alike."""

    samples: Sequence[Sample]
    count: int
    # What people said of them differs, so that one of them is wrong.
    labelled_differently: bool
    # The network is asked about what it has learned by heart: its accuracy looks better than it is.
    in_both_splits: bool


@dataclass(frozen=True)
class Suspects:
    looked_at: int
    total: int
    # None while pictures are looked at.
    alike: Sequence[Alike] | None
    group_count: int
    mislabelled: Sequence[Example]
    # The project whose network found the labels doubtful, "" without one.
    project: str


def suspects(hub: HubServices, version: DatasetVersion, projects: Sequence[str]) -> Suspects:
    """Return what is known by now."""
    likeness = hub.datasets.likeness(version.name)
    doubtful, project = _doubtful(hub, version, projects)
    groups = None if likeness.groups is None else sorted(map(_alike, likeness.groups), key=_urgency)
    shown = None if groups is None else groups[:_SHOWN_GROUPS]
    return Suspects(likeness.looked_at, likeness.total, shown, len(groups or ()), doubtful, project)


def _alike(samples: Sequence[Sample]) -> Alike:
    said = {(sample.label, len(sample.boxes)) for sample in samples}
    shown = _telling(samples)[:_SHOWN_OF_GROUP]
    return Alike(shown, len(samples), len(said) > 1, len({sample.split for sample in samples}) > 1)


def _telling(samples: Sequence[Sample]) -> list[Sample]:
    """Return one of each label and split first."""
    first = {(sample.label, sample.split): sample for sample in reversed(samples)}
    return [*first.values(), *(sample for sample in samples if sample not in first.values())]


def _urgency(alike: Alike) -> tuple[bool, bool, int]:
    return not alike.labelled_differently, not alike.in_both_splits, -alike.count


def _doubtful(hub: HubServices, version: DatasetVersion, projects: Sequence[str]) -> tuple[list[Example], str]:
    """Return pictures that the newest network trained on this version is sure about, and that are labelled otherwise."""
    for project in projects:
        made = next((each for each in hub.models.versions(project)[0] if each.dataset_version == version.name), None)
        build = next(iter(hub.builds.chosen(made.name).values()), None) if made else None
        found = [
            each
            for each in examples(hub, version.name, build)
            if each.wrong and (each.confidence >= _SURE if each.answer else each.confidence < 1 - _SURE)
        ]
        if build is not None:
            return found, project
    return [], ""
