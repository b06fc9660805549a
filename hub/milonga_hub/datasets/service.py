"""Data sets: import once, keep every version, hand out arrays to train on."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from milonga import pictures
from sqlmodel import Session, col, select

from milonga_hub.blobs import BlobStore, digest_of
from milonga_hub.datasets import rules
from milonga_hub.datasets.archive import open_archive
from milonga_hub.datasets.models import Dataset, DatasetImport, DatasetVersion, RejectedFile
from milonga_hub.datasets.rules import Labelled, Sample
from milonga_hub.db import Database
from milonga_hub.errors import InvalidInput, NotFound, ResourceExhausted
from milonga_hub.events import EventBus
from milonga_hub.paging import page

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# A page and a terminal show this many; the count is always whole.
_NAMED_REJECTIONS = 5

_Datasets = list[Dataset]
_Versions = list[DatasetVersion]


@dataclass(frozen=True)
class _Read:
    """What an archive held: pictures now kept as blobs, files that are none, and the names of all class folders."""

    labelled: list[Labelled]
    rejected: list[RejectedFile]
    classes: frozenset[str]


class DatasetService:
    def __init__(self, database: Database, blobs: BlobStore, events: EventBus) -> None:
        self._database = database
        self._blobs = blobs
        self._events = events
        # Versions are numbered one at a time; imports run in threads.
        self._importing = threading.Lock()

    def import_archive(
        self,
        dataset: str,
        archive: Path,
        append: bool,
        strict: bool,
        request_id: str = "",
        on_progress: Callable[[int, int], None] | None = None,
    ) -> DatasetVersion:
        """Make a version of the pictures in an archive of class folders, CLASS/PICTURE.

        Pictures that cannot be read are left out and listed, or with `strict` refuse the whole. Content that is equal to
        the newest version's makes no new one. Nothing is visible until all is kept. Raises InvalidInput.
        """
        if not _NAME.fullmatch(dataset):
            raise InvalidInput(f"{dataset!r} is not a data set name; use 1 to 63 of a-z, 0-9 and '-'")
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

    def _by_request(self, dataset: str, request_id: str) -> DatasetVersion | None:
        if not request_id:
            return None
        with self._database.session() as session:
            answered = session.get(DatasetImport, (dataset, request_id))
            return None if answered is None else session.get_one(DatasetVersion, answered.version)

    def _read(self, archive: Path, on_progress: Callable[[int, int], None] | None) -> _Read:
        labelled, rejected = [], []
        with open_archive(archive) as opened:
            total = opened.contents.file_count
            for number, member in enumerate(opened.files(), start=1):
                try:
                    pictures.decode(member.data)
                except pictures.PictureError as error:
                    rejected.append(RejectedFile(path=member.path, reason=str(error)))
                else:
                    labelled.append(Labelled(digest_of(member.data), member.label, member.path))
                    self._blobs.put(member.data)
                if on_progress is not None:
                    on_progress(number, total)
            return _Read(labelled, rejected, opened.contents.classes)

    def _make(self, dataset: str, read: _Read, append: bool, strict: bool, request_id: str) -> DatasetVersion:
        newest = self._newest(dataset)
        before = self._samples(newest) if newest else []
        number = newest.number + 1 if newest else 1
        known, replaced = (before, []) if append else ([], before)
        merged = rules.merge(known, read.labelled, number, replaced)
        rejected = [*read.rejected, *(RejectedFile(path=path, reason=why) for path, why in merged.refused.items())]
        if strict and rejected:
            named = "; ".join(f"{one.path}: {one.reason}" for one in rejected[:_NAMED_REJECTIONS])
            more = f"; and {len(rejected) - _NAMED_REJECTIONS} more" if len(rejected) > _NAMED_REJECTIONS else ""
            raise InvalidInput(f"{len(rejected)} files cannot be used: {named}{more}")
        classes = rules.check(merged.samples, read.classes)
        digest = rules.digest_of_version(merged.samples)
        if newest is not None and newest.digest == digest:
            with self._database.session() as session:
                self._answer(session, newest, request_id)
            return newest
        added = sum(sample.added_in == number for sample in merged.samples)
        version = DatasetVersion(
            name=f"datasets/{dataset}/versions/{number}",
            dataset=dataset,
            number=number,
            digest=digest,
            classes=classes,
            train_count=sum(sample.split == rules.TRAIN for sample in merged.samples),
            validation_count=sum(sample.split == rules.VALIDATION for sample in merged.samples),
            class_counts=dict(Counter(sample.label for sample in merged.samples)),
            added_count=added,
            duplicate_count=merged.duplicate_count,
            rejected=rejected,
            listing=self._blobs.put("".join(json.dumps(asdict(one)) + "\n" for one in merged.samples).encode()),
            request_id=request_id,
        )
        with self._database.session() as session:
            owner = session.get(Dataset, dataset) or Dataset(name=dataset)
            owner.latest_version, owner.classes = number, classes
            session.add(owner)
            session.add(version)
            self._answer(session, version, request_id)
        return version

    def _answer(self, session: Session, version: DatasetVersion, request_id: str) -> None:
        if request_id:
            session.add(DatasetImport(dataset=version.dataset, request_id=request_id, version=version.name))

    def _newest(self, dataset: str) -> DatasetVersion | None:
        with self._database.session() as session:
            newest = select(DatasetVersion).where(DatasetVersion.dataset == dataset)
            return session.exec(newest.order_by(col(DatasetVersion.number).desc())).first()

    def _samples(self, version: DatasetVersion) -> list[Sample]:
        lines = self._blobs.read(version.listing).decode().splitlines()
        return [Sample(**json.loads(line)) for line in lines]

    def get(self, name: str) -> Dataset:
        with self._database.session() as session:
            dataset = session.get(Dataset, name)
        if dataset is None:
            raise NotFound(f"there is no data set {name!r}; import one: milonga datasets import FOLDER --name {name}")
        return dataset

    def list(self, page_size: int = 0, page_token: str = "") -> tuple[_Datasets, str]:
        with self._database.session() as session:
            return page(session, select(Dataset), col(Dataset.name), page_size, page_token)

    def versions(self, dataset: str, page_size: int = 0, page_token: str = "") -> tuple[_Versions, str]:
        """Return the versions of a data set, the newest first."""
        self.get(dataset)
        statement = select(DatasetVersion).where(DatasetVersion.dataset == dataset)
        with self._database.session() as session:
            return page(session, statement, col(DatasetVersion.number), page_size, page_token, newest_first=True)

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

    def write_arrays(self, version_name: str, resolution_px: int, path: Path) -> None:
        """Write the pictures as arrays for training: x_train uint8 (n, 3, r, r), y_train, added_train, and so for val.

        The file appears whole or not at all; one that is there is kept.
        """
        if path.exists():
            return
        version = self.get_version(version_name)
        samples = self._samples(version)
        arrays: dict[str, np.ndarray] = {"classes": np.array(version.classes)}
        for split, name in ((rules.TRAIN, "train"), (rules.VALIDATION, "val")):
            chosen = [sample for sample in samples if sample.split == split]
            arrays.update(self._arrays(chosen, version.classes, resolution_px, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", suffix=".npz", delete=False) as file:
            try:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                Path(file.name).unlink()
                if error.errno == errno.ENOSPC:
                    raise ResourceExhausted(f"the hub's disk is full; free space under {path.parent}") from error
                raise
        Path(file.name).replace(path)

    def _arrays(
        self, samples: Sequence[Sample], classes: Sequence[str], resolution_px: int, name: str
    ) -> dict[str, np.ndarray]:
        index = {label: number for number, label in enumerate(classes)}
        images = np.zeros((len(samples), 3, resolution_px, resolution_px), dtype=np.uint8)
        for row, sample in enumerate(samples):
            images[row] = pictures.to_array(pictures.decode(self._blobs.read(sample.digest)), resolution_px)
        return {
            f"x_{name}": images,
            f"y_{name}": np.array([index[sample.label] for sample in samples], dtype=np.int64),
            f"added_{name}": np.array([sample.added_in for sample in samples], dtype=np.int32),
        }
