"""Data sets: import once, keep every version, hand out arrays to train on."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from milonga import pictures
from PIL import Image
from sqlmodel import Session, col, select

from milonga_hub.blobs import Blobs
from milonga_hub.datasets import rules
from milonga_hub.datasets.archive import open_archive
from milonga_hub.datasets.exports import Export
from milonga_hub.datasets.layouts import read
from milonga_hub.datasets.likeness import Likeness, Likenesses
from milonga_hub.datasets.models import TRAINING_FILES, Dataset, DatasetImport, DatasetVersion, RejectedFile
from milonga_hub.datasets.reading import Read
from milonga_hub.datasets.rules import Box, Labelled, Sample
from milonga_hub.datasets.rules_coverage import Coverage, coverage_of
from milonga_hub.datasets.rules_exports import LAYOUTS
from milonga_hub.datasets.rules_health import Health, Sizes, by_class, health_of, remarks, sizes_of
from milonga_hub.datasets.training_data import write_arrays, write_yolo
from milonga_hub.datasets.values import Layout
from milonga_hub.db import Database
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.paging import page
from milonga_hub.tasks import Task

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# A page and a terminal show this many; the count is always whole.
_NAMED_REJECTIONS = 5

# Sizes are read from so many pictures, evenly spread: headers only, some 0.1 ms each.
_SIZED_PICTURES = 200
_THUMBNAIL_QUALITY = 85

_Datasets = list[Dataset]
_Versions = list[DatasetVersion]
_Samples = list[Sample]


class DatasetService:
    def __init__(self, database: Database, blobs: Blobs, events: EventBus) -> None:
        self._database = database
        self._blobs = blobs
        self._events = events
        # Versions are numbered one at a time; imports run in threads.
        self._importing = database.turn("datasets", seconds=600.0)
        # Raises QuotaExceeded where a data set may not grow by what the function returns, in bytes.
        self.may_grow: Callable[[str, Callable[[], int]], None] = lambda dataset, added_bytes: None
        # What each data set takes, by the newest version that it was counted with.
        self._counted: dict[str, tuple[str, int]] = {}
        # The listing that was read last, for pages that turn through it: (blob, samples).
        self._listed: tuple[str, list[Sample]] = ("", [])
        self.likenesses = Likenesses(blobs, events)

    def import_archive(
        self,
        dataset: str,
        archive: Path,
        append: bool,
        strict: bool,
        request_id: str = "",
        on_progress: Callable[[int, int], None] | None = None,
    ) -> DatasetVersion:
        """Make a version of the pictures in an archive of class folders, CLASS/PICTURE, or in YOLO's, COCO's or VOC's layout.

        Pictures that cannot be read are left out and listed, or with `strict` refuse the whole. Content that is equal to
        the newest version's makes no new one. Nothing is visible until all is kept. Raises InvalidInput, and
        FailedPrecondition where the data set is for another task.
        """
        self.check_name(dataset)
        known = self._by_request(dataset, request_id)
        if known is not None:
            return known
        read = self._read(archive, on_progress)
        with self._importing:
            # The same request may have come again while the first one was still reading.
            known = self._by_request(dataset, request_id)
            if known is not None:
                return known
            version = self._make(dataset, read, append, strict, request_id)
        self._events.publish(f"datasets/{dataset}", version)
        return version

    def add(self, dataset: str, labelled: Sequence[Labelled]) -> DatasetVersion:
        """Make a version with these pictures beside those of the newest one; the blobs must be there already.

        Pictures that are known under another label are left out and listed. Raises NotFound without a newest version.
        """
        with self._importing:
            newest = self.latest(dataset)
            sent = Read(newest.task, tuple(newest.classes), [*labelled])
            version = self._make(dataset, sent, append=True, strict=False, request_id="", grows=False)
        self._events.publish(f"datasets/{dataset}", version)
        return version

    @staticmethod
    def check_name(dataset: str) -> None:
        """Raise InvalidInput for what can be no data set's name."""
        if not _NAME.fullmatch(dataset):
            raise InvalidInput(f"{dataset!r} is not a data set name; use 1 to 63 of a-z, 0-9 and '-'")

    def _by_request(self, dataset: str, request_id: str) -> DatasetVersion | None:
        if not request_id:
            return None
        with self._database.session() as session:
            answered = session.get(DatasetImport, (dataset, request_id))
            return None if answered is None else session.get_one(DatasetVersion, answered.version)

    def _read(self, archive: Path, on_progress: Callable[[int, int], None] | None) -> Read:
        with open_archive(archive) as opened, self._blobs.ahead() as sink:
            return read(opened, sink, on_progress)

    def _make(
        self, dataset: str, read: Read, append: bool, strict: bool, request_id: str, grows: bool = True
    ) -> DatasetVersion:
        newest = self._newest(dataset)
        if newest is not None and newest.task is not read.task:
            raise FailedPrecondition(
                f"{dataset} is a data set for {newest.task.lower()}, and these pictures are for {read.task.lower()};"
                " send them under another name"
            )
        before = self._samples(newest) if newest else []
        number = newest.number + 1 if newest else 1
        known, replaced = (before, []) if append else ([], before)
        merged = rules.merge(known, read.labelled, number, replaced)
        rejected = [*read.rejected, *(RejectedFile(path=path, reason=why) for path, why in merged.refused.items())]
        if strict and rejected:
            named = "; ".join(f"{one.path}: {one.reason}" for one in rejected[:_NAMED_REJECTIONS])
            more = f"; and {len(rejected) - _NAMED_REJECTIONS} more" if len(rejected) > _NAMED_REJECTIONS else ""
            raise InvalidInput(f"{len(rejected)} files cannot be used: {named}{more}")
        classes = self._checked(read, merged.samples, newest, append)
        shown = by_class(read.task, classes, merged.samples)
        digest = rules.digest_of_version(merged.samples, classes if read.task is Task.DETECTION else ())
        if newest is not None and newest.digest == digest:
            with self._database.session() as session:
                self._answer(session, newest, request_id)
            return newest
        added = sum(sample.added_in == number for sample in merged.samples)
        if grows:
            new = {sample.digest for sample in merged.samples} - {sample.digest for sample in before}
            self.may_grow(dataset, lambda: self._blobs.sizes(new))
        version = DatasetVersion(
            name=f"datasets/{dataset}/versions/{number}",
            dataset=dataset,
            number=number,
            digest=digest,
            classes=classes,
            train_count=sum(sample.split == rules.TRAIN for sample in merged.samples),
            validation_count=sum(sample.split == rules.VALIDATION for sample in merged.samples),
            class_counts={each.name: each.total for each in shown if each.total},
            added_count=added,
            duplicate_count=merged.duplicate_count,
            rejected=rejected,
            listing=self._blobs.put("".join(json.dumps(asdict(one)) + "\n" for one in merged.samples).encode()),
            request_id=request_id,
            task=read.task,
            notes=[*read.notes, *merged.notes, *remarks(read.task, shown)],
            layout=read.layout,
        )
        with self._database.session() as session:
            owner = session.get(Dataset, dataset) or Dataset(name=dataset, task=read.task)
            owner.latest_version, owner.classes = number, classes
            session.add(owner)
            session.add(version)
            self._answer(session, version, request_id)
        return version

    @staticmethod
    def _checked(read: Read, samples: Sequence[Sample], newest: DatasetVersion | None, append: bool) -> list[str]:
        """Return the classes. Raises InvalidInput where nothing could be learned."""
        if read.task is Task.CLASSIFICATION:
            return rules.check(samples, read.classes)
        rules.check_boxes(samples)
        before = newest.classes if newest else []
        named = [*before, *read.classes] if append else list(read.classes)
        return rules.ordered(list(dict.fromkeys(named)), before)

    def _answer(self, session: Session, version: DatasetVersion, request_id: str) -> None:
        if request_id:
            session.add(DatasetImport(dataset=version.dataset, request_id=request_id, version=version.name))

    def _newest(self, dataset: str) -> DatasetVersion | None:
        with self._database.session() as session:
            newest = select(DatasetVersion).where(DatasetVersion.dataset == dataset)
            return session.exec(newest.order_by(col(DatasetVersion.number).desc())).first()

    def _samples(self, version: DatasetVersion) -> list[Sample]:
        listing, samples = self._listed
        if listing != version.listing:
            lines = self._blobs.read(version.listing).decode().splitlines()
            samples = [_sample(json.loads(line)) for line in lines]
            self._listed = (version.listing, samples)
        return samples

    def get(self, name: str) -> Dataset:
        with self._database.session() as session:
            dataset = session.get(Dataset, name)
        if dataset is None:
            raise NotFound(f"there is no data set {name!r}; import one: milonga datasets import FOLDER --name {name}")
        return dataset

    def list(
        self, page_size: int = 0, page_token: str = "", names: Collection[str] | None = None
    ) -> tuple[_Datasets, str]:
        """Return data sets by name, of these alone where some are named."""
        statement = select(Dataset) if names is None else select(Dataset).where(col(Dataset.name).in_(sorted(names)))
        with self._database.session() as session:
            return page(session, statement, col(Dataset.name), page_size, page_token)

    def versions(self, dataset: str, page_size: int = 0, page_token: str = "") -> tuple[_Versions, str]:
        """Return the versions of a data set, the newest first."""
        self.get(dataset)
        statement = select(DatasetVersion).where(DatasetVersion.dataset == dataset)
        with self._database.session() as session:
            return page(session, statement, col(DatasetVersion.number), page_size, page_token, newest_first=True)

    def made_since(self, moment: datetime) -> _Versions:
        """Return the versions of all data sets that were made since then."""
        with self._database.session() as session:
            return [*session.exec(select(DatasetVersion).where(col(DatasetVersion.created_at) >= moment))]

    def get_version(self, name: str) -> DatasetVersion:
        with self._database.session() as session:
            version = session.get(DatasetVersion, name)
        if version is None:
            raise NotFound(f"there is no {name}; list them with: milonga datasets versions DATASET")
        return version

    def latest(self, dataset: str) -> DatasetVersion:
        """Return the newest version. Raises NotFound where there is none."""
        self.get(dataset)
        newest = self._newest(dataset)
        assert newest is not None, "a data set is made with its first version"
        return newest

    def check_room(self, dataset: str) -> None:
        """Raise QuotaExceeded where the data set may not grow at all, before anything large is sent for it."""
        self.may_grow(dataset, lambda: 1)

    def size_bytes(self, dataset: str) -> int:
        """Return what the pictures of all versions take together; 0 where there is no such data set."""
        newest = self._newest(dataset)
        if newest is None:
            return 0
        known, size_bytes = self._counted.get(dataset, ("", 0))
        if known != newest.name:
            with self._database.session() as session:
                versions = session.exec(select(DatasetVersion).where(DatasetVersion.dataset == dataset)).all()
            size_bytes = self._blobs.sizes({sample.digest for version in versions for sample in self._samples(version)})
            self._counted[dataset] = (newest.name, size_bytes)
        return size_bytes

    def health(self, version_name: str) -> Health:
        """Return how good the version is to learn from."""
        version = self.get_version(version_name)
        return health_of(version.task, version.classes, self._samples(version), len(version.rejected))

    def likeness(self, version_name: str) -> Likeness:
        """Return which pictures look alike; whoever asks first has them looked at, which goes on after this returns."""
        return self.likenesses.of(version_name, self._samples(self.get_version(version_name)))

    def coverage(self, version_name: str, label: str = "") -> Coverage | None:
        """Return where boxes lie in pictures, of one class or of all; None where there is none."""
        return coverage_of(self._samples(self.get_version(version_name)), label)

    def sizes(self, version_name: str) -> Sizes | None:
        """Return how large the version's pictures are, by some of them; None where there is none."""
        samples = self._samples(self.get_version(version_name))
        step = max(1, len(samples) // _SIZED_PICTURES)
        return sizes_of([self._size(sample) for sample in samples[::step]])

    def size_of(self, digest: str) -> tuple[int, int]:
        """Return the width and height of a picture as it is looked at."""
        return pictures.decode(self._blobs.read(digest)).size

    def _size(self, sample: Sample) -> tuple[int, int, int]:
        path = self._blobs.path(sample.digest)
        with Image.open(path) as image:
            return image.width, image.height, path.stat().st_size

    def samples(
        self, version_name: str, label: str = "", split: str = "", start: int = 0, count: int = 50
    ) -> tuple[_Samples, int]:
        """Return some pictures of a version, of one class and split or of all, and how many there are of these."""
        found = [
            sample
            for sample in self._samples(self.get_version(version_name))
            if split in ("", sample.split)
            and (label in ("", sample.label) or any(box.label == label for box in sample.boxes))
        ]
        return found[start : start + count], len(found)

    def thumbnail(self, digest: str, size_px: int) -> bytes:
        """Return a picture as a JPEG that fits into a square. Raises NotFound where the blob is no picture."""
        try:
            picture = pictures.decode(self._blobs.read(digest))
        except pictures.PictureError as error:
            raise NotFound(f"{digest} is not a picture") from error
        picture.thumbnail((size_px, size_px))
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=_THUMBNAIL_QUALITY)
        return packed.getvalue()

    def export(self, version_name: str, layout: Layout | None = None) -> Export:
        """Return the version on its way out as a zip file; no layout takes the first that suits the task.

        What it writes is this version, whatever is imported meanwhile. Raises FailedPrecondition where the layout cannot hold it.
        """
        version = self.get_version(version_name)
        return Export(version, self._samples(version), layout or LAYOUTS[version.task][0], self._blobs)

    def write_training_data(
        self, version_name: str, resolution_px: int, folder: Path, steps: Sequence[str] = ()
    ) -> Path:
        """Write what jobs train on into the folder and return its path: see training_data.py.

        It appears whole or not at all; what is there is kept. Pictures to classify take the `steps` of plug-ins first.
        """
        version = self.get_version(version_name)
        path = folder / TRAINING_FILES[version.task]
        if path.exists():
            return path
        samples = self._samples(version)
        if version.task is Task.DETECTION:
            write_yolo(self._blobs, samples, version.classes, path)
        else:
            write_arrays(self._blobs, samples, version.classes, resolution_px, path, steps)
        return path


def _sample(line: Mapping[str, Any]) -> Sample:
    return Sample(**{**line, "boxes": tuple(Box(*one) for one in line.get("boxes", ()))})
