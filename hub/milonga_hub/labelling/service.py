"""The queue of pictures to label: ask, note what people say, and make it part of the next data set version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, func, select

from milonga_hub.blobs import Blobs
from milonga_hub.datasets.rules import Box, Labelled
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import DecidedMeanwhile, FailedPrecondition, InvalidInput, MilongaError, NotFound
from milonga_hub.events import EventBus
from milonga_hub.labelling import rules, rules_agreement, rules_history
from milonga_hub.labelling.intake import SampleIntake
from milonga_hub.labelling.models import (
    LabelledAccuracy,
    Labelling,
    Opinion,
    QueuedSample,
    SampleBox,
    SampleReason,
    SampleSource,
    SampleState,
    SpentDay,
)
from milonga_hub.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, page
from milonga_hub.projects.models import SamplingSpec
from milonga_hub.projects.service import ProjectService

_log = logging.getLogger(__name__)

# Labels become a data set version when nobody has labelled for so long, or when so many wait: until then they can be undone.
_SETTLED = timedelta(minutes=2)
_MOST_PENDING = 500
# What was skipped by mistake can be brought back for so long; then the picture is deleted.
_SKIPPED_KEPT = timedelta(hours=1)
_LOOK_SECONDS = 15.0
# Pictures among which the next ones to ask about are sought.
_CONSIDERED = 2000

# A picture that came so lately may be about to get its row.
_ARRIVING = timedelta(hours=1)
# Devices are judged by so many labels, the newest.
_JUDGED = 5000
# A picture that nobody labelled for so long is deleted.
_WAITING_KEPT = timedelta(days=90)
# Where no second person comes for so long, what the first said holds.
_SECOND_AWAITED = timedelta(days=7)

# Devices that are told by name as having sent all that they may.
_SPENT_TOLD = 100

_Samples = list[QueuedSample]
_Spent = list[SpentDay]


class LabellingService:
    def __init__(
        self,
        database: Database,
        events: EventBus,
        projects: ProjectService,
        datasets: DatasetService,
        blobs: Blobs,
        intake: SampleIntake,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`intake` takes pictures and keeps those that are not part of a data set; `blobs` is where data sets have theirs."""
        self._database = database
        self._events = events
        self._projects = projects
        self._datasets = datasets
        self._blobs = blobs
        self._pictures = intake.pictures
        self._what_stops = intake.what_stops
        self._clock = clock
        self._adding = database.turn("labelling")

    # Look

    def get(self, name: str) -> QueuedSample:
        with self._database.session() as session:
            return self._found(session, name)

    def list(
        self,
        project: str,
        state: SampleState | None = None,
        device: str = "",
        page_size: int = 0,
        page_token: str = "",
        asker: str = "",
    ) -> tuple[_Samples, str]:
        """Return samples of a project: those that wait in the order of asking, in one page; others the newest first.

        Those that wait for a second opinion are not listed to the `asker` whose is the first.
        """
        self._projects.get(project)
        statement = select(QueuedSample).where(QueuedSample.project == project)
        if device:
            statement = statement.where(QueuedSample.device == device)
        with self._database.session() as session:
            if state is SampleState.WAITING:
                if page_size < 0:
                    raise InvalidInput("page_size must not be negative")
                count = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
                if asker:
                    statement = statement.where(QueuedSample.first_by != asker)
                return self._next(session, statement, count), ""
            if state is not None:
                statement = statement.where(QueuedSample.state == state)
            return page(session, statement, col(QueuedSample.arrival), page_size, page_token, newest_first=True)

    @staticmethod
    def _next(session: Session, statement: Any, count: int) -> _Samples:
        waiting = statement.where(QueuedSample.state == SampleState.WAITING, QueuedSample.like == "")
        found = list(session.exec(waiting.order_by(col(QueuedSample.arrival)).limit(_CONSIDERED)))
        doubts = [rules.Doubt(one.confidence, one.look, one.reason is SampleReason.RANDOM) for one in found]
        return [found[place] for place in rules.order(doubts, count)]

    def picture(self, name: str) -> tuple[bytes, str]:
        """Return a picture as it was sent, and its media type. Raises NotFound where it is gone."""
        sample = self.get(name)
        store = self._pictures if sample.kept else self._blobs if sample.dataset_version else None
        if store is None:
            raise NotFound(f"the picture of {name} was deleted")
        data = store.read(sample.digest)
        return data, "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"

    def classes(self, project: str) -> Sequence[str]:
        """Return the classes that a label may name, in the order of the data set; none where the project has no data set."""
        dataset = self._projects.get(project).spec.dataset
        return self._datasets.latest(dataset).classes if dataset else ()

    def accuracy(self, project: str, model_version: str) -> LabelledAccuracy | None:
        """Return how often a version was right on all devices, by labels of pictures chosen by chance; None without any."""
        by_chance = select(QueuedSample).where(
            QueuedSample.project == project,
            QueuedSample.model_version == model_version,
            QueuedSample.state == SampleState.LABELLED,
            QueuedSample.reason == SampleReason.RANDOM,
        )
        with self._database.session() as session:
            judged = session.exec(by_chance.order_by(col(QueuedSample.decided_at).desc()).limit(_JUDGED)).all()
        return rules.accuracy(judged)

    def summary(self, project: str) -> Labelling:
        """Return how much waits and is done, and how often devices were right."""
        spec = self._projects.get(project).spec
        today = self._clock().replace(hour=0, minute=0, second=0, microsecond=0)
        with self._database.session() as session:
            counted = select(QueuedSample.state, func.count()).where(
                QueuedSample.project == project, QueuedSample.like == ""
            )
            counts = dict(session.exec(counted.group_by(col(QueuedSample.state))).all())
            pending = session.exec(
                select(func.count()).where(*self._pending(project)),
            ).one()
            done = session.exec(
                select(func.count()).where(QueuedSample.project == project, col(QueuedSample.decided_at) >= today)
            ).one()
            dropped = session.exec(
                select(func.coalesce(func.sum(SampleSource.dropped_count), 0)).where(SampleSource.project == project)
            ).one()
            by_chance = select(QueuedSample).where(
                QueuedSample.project == project,
                QueuedSample.state == SampleState.LABELLED,
                QueuedSample.reason == SampleReason.RANDOM,
            )
            judged = session.exec(by_chance.order_by(col(QueuedSample.decided_at).desc()).limit(_JUDGED)).all()
            said_twice = select(QueuedSample.opinions).where(
                QueuedSample.project == project,
                col(QueuedSample.first_at).is_not(None),
                QueuedSample.first_by == "",
            )
            both = session.exec(said_twice.order_by(col(QueuedSample.first_at).desc()).limit(_JUDGED)).all()
            spent, spent_count = self._spent(session, project, spec.samples) if spec.samples.enabled else ([], 0)
        return Labelling(
            project=project,
            enabled=spec.samples.enabled,
            waiting=counts.get(SampleState.WAITING, 0),
            pending=pending,
            labelled=counts.get(SampleState.LABELLED, 0),
            skipped=counts.get(SampleState.SKIPPED, 0),
            refused=counts.get(SampleState.REFUSED, 0),
            done_today=done,
            dropped=int(dropped),
            accuracies=rules.accuracies(judged),
            conflicts=counts.get(SampleState.CONFLICT, 0),
            agreement=rules_agreement.agreement([(pair[0], pair[1]) for pair in both if len(pair) == 2]),
            pictures_per_day=spec.samples.pictures_per_day,
            bytes_per_day=rules.bytes_per_day(spec.samples),
            spent=spent,
            spent_count=spent_count,
            stopped=self._what_stops(project) if spec.samples.enabled else "",
        )

    def _spent(self, session: Session, project: str, spec: SamplingSpec) -> tuple[_Spent, int]:
        """Return the devices that may send no more now, by name, and how many there are."""
        since = self._clock() - rules.DAY
        # A device offers before it sends: with the index on devices, that spares a look at the pictures of all others.
        sums = (
            select(QueuedSample.device, func.count(), func.sum(QueuedSample.size_bytes))
            .join(SampleSource, col(SampleSource.device) == QueuedSample.device)
            .where(SampleSource.project == project, col(SampleSource.told_at) > since)
            .where(col(QueuedSample.received_at) > since)
            .group_by(QueuedSample.device)
            .order_by(QueuedSample.device)
        )
        found = [
            SpentDay(device=device, pictures=count, size_bytes=int(size_bytes))
            for device, count, size_bytes in session.exec(sums)
            if rules.is_spent(spec, count, int(size_bytes))
        ]
        told = found[:_SPENT_TOLD]
        for each in told:
            sent = select(QueuedSample.received_at, QueuedSample.size_bytes).where(
                QueuedSample.device == each.device, col(QueuedSample.received_at) > since
            )
            rows = session.exec(sent.order_by(col(QueuedSample.received_at))).all()
            each.free_at = rules.free_at(spec, [(received_at, size_bytes) for received_at, size_bytes in rows])
        return told, len(found)

    # Decide

    def label(
        self,
        name: str,
        label: str = "",
        boxes: Sequence[SampleBox] = (),
        accept: bool = False,
        decided_by: str = "",
        revision: int | None = None,
    ) -> QueuedSample:
        """Note what the picture shows; `accept` takes the device's answer. A label may be changed until it is added.

        `revision` is that of the sample which the caller saw; None means that nothing was decided, but by the caller.

        Of pictures that two people are asked about, the first answer is an opinion: the sample waits for somebody else. Where
        both say the same that is its label; else it is a conflict, and the next label decides.

        Raises InvalidInput for a class that the data set does not have, DecidedMeanwhile where somebody else decided something
        else that the caller did not see, FailedPrecondition where it is too late.
        """
        sample = self.get(name)
        project = self._projects.get(sample.project)
        if accept:
            if label or boxes:
                raise InvalidInput("accept takes the device's answer; give no label and no boxes with it")
            label, boxes = sample.predicted, sample.predicted_boxes
        rules.check_label(project.spec.task, self.classes(project.name), label, boxes)
        opinion = Opinion(
            by=decided_by[:100],
            label=label,
            boxes=[box.model_copy(update={"score": 0.0}) for box in boxes],
            at=self._clock(),
        )
        if rules_history.says(sample, SampleState.LABELLED, opinion):
            return sample
        with self._changing(name, opinion.by, revision) as sample:
            is_asked = sample.state is SampleState.WAITING and bool(opinion.by)
            if is_asked and (
                sample.opinions or rules_agreement.asked_twice(name, project.spec.samples.second_opinions)
            ):
                self._consider(sample, opinion)
            else:
                self._settle(sample, SampleState.LABELLED, opinion)
        return self._told(sample)

    def _consider(self, sample: QueuedSample, opinion: Opinion) -> None:
        """Keep the first opinion, and hold the second against it."""
        sample.opinions = [*(one for one in sample.opinions if one.by != opinion.by), opinion]
        if len(sample.opinions) == 1:
            sample.first_by, sample.first_at = opinion.by, self._clock()
        elif rules_agreement.agree(*sample.opinions):
            self._settle(sample, SampleState.LABELLED, opinion)
        else:
            self._settle(sample, SampleState.CONFLICT, Opinion(by=""))
            sample.message = rules_agreement.told(sample.opinions)

    def _settle(self, sample: QueuedSample, state: SampleState, said: Opinion) -> None:
        now = self._clock()
        answers = [rules_history.decision(one, SampleState.LABELLED, sample.first_at or now) for one in sample.opinions]
        # A conflict is two answers, and nothing more.
        decided = [] if state is SampleState.CONFLICT else [rules_history.decision(said, state, now)]
        sample.history = rules_history.noted(sample, *answers, *decided)
        sample.revision += 1
        sample.state, sample.label, sample.boxes, sample.decided_by = state, said.label, said.boxes, said.by
        sample.decided_at = now
        sample.first_by = sample.message = ""

    def skip(self, name: str, decided_by: str = "", revision: int | None = None) -> QueuedSample:
        """Say that the picture is not worth a label. Raises DecidedMeanwhile and FailedPrecondition as `label` does."""
        said = Opinion(by=decided_by[:100])
        sample = self.get(name)
        if rules_history.says(sample, SampleState.SKIPPED, said):
            return sample
        with self._changing(name, said.by, revision) as sample:
            self._settle(sample, SampleState.SKIPPED, said)
        return self._told(sample)

    def undo(self, name: str, by: str = "", revision: int | None = None) -> QueuedSample:
        """Let the picture wait again; what somebody else than `by` said first is kept. Raises as `label` does."""
        by = by[:100]
        with self._changing(name, by, revision) as sample:
            others = [one for one in sample.opinions if one.by != by]
            # Of a decision between two people, both opinions are of others: they are asked again.
            kept = others if len(others) == 1 else []
            if sample.state is not SampleState.WAITING:
                self._settle(sample, SampleState.WAITING, Opinion(by=by))
                sample.decided_by, sample.decided_at = "", None
            # Who is asked now must not see it.
            hidden = [
                rules_history.decision(one, SampleState.LABELLED, sample.first_at or self._clock()) for one in kept
            ]
            sample.history = [one for one in sample.history if one not in hidden]
            sample.opinions = kept
            sample.first_by = "".join(one.by for one in sample.opinions)
            sample.first_at = sample.first_at if sample.opinions else None
        return self._told(sample)

    @contextmanager
    def _changing(self, name: str, by: str, revision: int | None) -> Iterator[QueuedSample]:
        """Yield the sample to change. Raises FailedPrecondition where nothing is left to decide."""
        with self._adding, self._database.session() as session:
            sample = self._found(session, name)
            if sample.dataset_version:
                raise FailedPrecondition(
                    f"{name} is part of {sample.dataset_version} already, which never changes; import a corrected data set"
                )
            if what := rules_history.overruled(sample, by, revision):
                raise DecidedMeanwhile(f"{what}; to see all that was decided: milonga samples show {_short(name)}")
            if not sample.kept:
                raise FailedPrecondition(f"the picture of {name} was deleted; there is nothing left to decide")
            yield sample
            session.add(sample)

    def _told(self, sample: QueuedSample) -> QueuedSample:
        self._events.publish(f"samples/{sample.project}", sample)
        return sample

    def discard(self, project: str) -> int:
        """Delete the pictures that wait, and return how many there were; devices do not send them again."""
        self._projects.get(project)
        with self._database.session() as session:
            waiting = select(QueuedSample).where(
                QueuedSample.project == project, QueuedSample.state == SampleState.WAITING
            )
            found = list(session.exec(waiting))
            for sample in found:
                sample.state, sample.decided_at = SampleState.SKIPPED, self._clock()
                self._forget(session, sample)
        if found:
            self._events.publish(f"samples/{project}", found[-1])
        return len(found)

    # Make it part of the data set

    async def run(self) -> None:
        """Add what is labelled to data sets and delete what was skipped, each in its time, until cancelled."""
        await asyncio.to_thread(self.sweep, utc_now() - _ARRIVING)
        while True:
            await asyncio.to_thread(self.tidy)
            await asyncio.sleep(_LOOK_SECONDS)

    def sweep(self, before: datetime) -> None:
        """Delete the pictures from before then that no sample is about: the hub ended while they arrived or left."""
        for digest in list(self._pictures.older_than(before)):
            with self._database.session() as session:
                about = select(QueuedSample.name).where(QueuedSample.digest == digest, QueuedSample.kept)
                known = session.exec(about).first()
            if known is None:
                self._pictures.delete(digest)

    def tidy(self) -> None:
        """Do what is due now."""
        now = self._clock()
        pending = select(QueuedSample.project, func.count(), func.max(QueuedSample.decided_at)).where(*self._pending())
        with self._database.session() as session:
            due = [
                project
                for project, count, newest in session.exec(pending.group_by(col(QueuedSample.project)))
                if count >= _MOST_PENDING or (newest is not None and now - newest >= _SETTLED)
            ]
            old = select(QueuedSample).where(
                QueuedSample.state == SampleState.SKIPPED,
                QueuedSample.kept,
                col(QueuedSample.decided_at) <= now - _SKIPPED_KEPT,
            )
            for sample in list(session.exec(old)):
                self._forget(session, sample)
            alone = select(QueuedSample).where(
                QueuedSample.state == SampleState.WAITING,
                QueuedSample.first_by != "",
                col(QueuedSample.first_at) <= now - _SECOND_AWAITED,
            )
            for sample in list(session.exec(alone)):
                self._settle(sample, SampleState.LABELLED, sample.opinions[0])
                session.add(sample)
            unanswered = select(QueuedSample).where(
                col(QueuedSample.state).in_((SampleState.WAITING, SampleState.CONFLICT)),
                QueuedSample.kept,
                col(QueuedSample.received_at) <= now - _WAITING_KEPT,
            )
            for sample in list(session.exec(unanswered)):
                sample.state, sample.message = SampleState.SKIPPED, "nobody labelled it in time"
                self._forget(session, sample)
        for project in due:
            try:
                self.add_labelled(project)
            except MilongaError as error:
                _log.error("the labels of %s are kept, and not part of its data set yet: %s", project, error)

    def add_labelled(self, project: str) -> tuple[str, int]:
        """Make what is labelled part of the project's data set; return the version, "" for nothing, and how many pictures."""
        found = self._projects.get(project)
        with self._adding:
            with self._database.session() as session:
                pending = list(session.exec(select(QueuedSample).where(*self._pending(project))))
            if not pending:
                return "", 0
            for sample in pending:
                # It may be there already: from another version, or from before a crash at this very place.
                if not self._blobs.exists(sample.digest):
                    self._blobs.put(self._pictures.read(sample.digest))
            version = self._datasets.add(found.spec.dataset, [_labelled(sample) for sample in pending])
            refused = {one.path: one.reason for one in version.rejected}
            with self._database.session() as session:
                for sample in pending:
                    sample.dataset_version = version.name
                    sample.message = refused.get(_path(sample), "")
                    self._forget(session, sample)
        self._events.publish(f"samples/{project}", pending[-1])
        _log.info("%d labelled pictures of devices are part of %s", len(pending), version.name)
        return version.name, len(pending)

    @staticmethod
    def _pending(project: str = "") -> tuple[Any, ...]:
        labelled = (QueuedSample.state == SampleState.LABELLED, QueuedSample.dataset_version == "")
        return (*labelled, QueuedSample.project == project) if project else labelled

    def _forget(self, session: Session, sample: QueuedSample) -> None:
        """Delete the picture here, unless another project was sent the same one."""
        sample.kept = False
        session.add(sample)
        session.flush()
        others = select(QueuedSample.name).where(QueuedSample.digest == sample.digest, QueuedSample.kept)
        if session.exec(others).first() is None:
            self._pictures.delete(sample.digest)

    @staticmethod
    def _found(session: Session, name: str) -> QueuedSample:
        sample = session.get(QueuedSample, name)
        if sample is None:
            raise NotFound(f"there is no {name}; list samples with: milonga samples ls PROJECT")
        return sample


def _short(name: str) -> str:
    """Return the name as people write it: "parts/0a1b"."""
    _, project, _, sample = name.split("/")
    return f"{project}/{sample}"


def _path(sample: QueuedSample) -> str:
    """Return where the picture came from, as the data set tells it."""
    return f"samples/{sample.device}/{sample.name.rpartition('/')[2]}"


def _labelled(sample: QueuedSample) -> Labelled:
    boxes = tuple(Box(box.label, box.x, box.y, box.width, box.height) for box in sample.boxes)
    return Labelled(sample.digest, sample.label, _path(sample), boxes)
