"""Take models that were trained elsewhere: check the file at once, and start the run that builds it."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milonga_hub.blobs import Blobs, digest_of_file
from milonga_hub.callers import Role, current, need_dataset, need_project, signature
from milonga_hub.datasets.service import DatasetService
from milonga_hub.errors import FailedPrecondition, InvalidInput, PermissionDenied
from milonga_hub.jobs import JobCrashed, JobError, run_job
from milonga_hub.models.models import ImportedModel
from milonga_hub.projects.models import ProjectSpec
from milonga_hub.projects.service import ProjectService
from milonga_hub.runs.models import Run, Trigger
from milonga_hub.runs.service import RunService
from milonga_hub.tasks import Task

_RESIZES = ("", "stretch", "letterbox")
_MOST_CLASSES = 100_000
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Sent:
    """What came with a file; what is empty is left to the file, or to the project."""

    project: str
    file_name: str
    digest: str = ""
    classes: Sequence[str] = ()
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    resize: str = ""
    size_px: int = 0
    dataset: str = ""
    trust_pickle: bool = False
    request_id: str = ""
    by: str = ""


class ModelImports:
    """`folder` holds a folder for each file while it is looked at."""

    def __init__(
        self, projects: ProjectService, datasets: DatasetService, runs: RunService, blobs: Blobs, folder: Path
    ) -> None:
        self._projects, self._datasets, self._runs, self._blobs = projects, datasets, runs, blobs
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)  # Of a hub that was killed.
        # Reading a large network takes a gigabyte: one at a time.
        self._reading = asyncio.Lock()

    def check(self, sent: Sent) -> ProjectSpec:
        """Return the project's spec. Raises what is wrong without a look at the file, so that nobody sends it in vain."""
        need_project(sent.project)
        spec = self._projects.get(sent.project).spec
        if sent.dataset not in ("", spec.dataset):
            need_dataset(sent.dataset)
        ending = Path(sent.file_name).suffix.lower()
        if ending not in (".onnx", ".pt"):
            raise InvalidInput(
                f"{sent.file_name!r} is neither an .onnx file nor a .pt of ultralytics; export it to ONNX"
            )
        if ending == ".pt":
            _check_trust(sent)
        if sent.resize not in _RESIZES:
            raise InvalidInput(f"resize is {sent.resize!r}; it is stretch or letterbox")
        for name, values in (("mean", sent.mean), ("std", sent.std)):
            if len(values) not in (0, 3):
                raise InvalidInput(f"{name} has {len(values)} numbers; give three, for red, green and blue")
        if len(sent.classes) > _MOST_CLASSES or any(not name.strip() for name in sent.classes):
            raise InvalidInput("classes are names, one for each output; none may be empty")
        dataset = sent.dataset or spec.dataset
        if dataset and (found := self._datasets.get(dataset)).task is not spec.task:
            raise FailedPrecondition(
                f"{sent.project} is for {spec.task.lower()}, and the data set {dataset!r} for {found.task.lower()}; name another"
            )
        return spec

    async def take(self, sent: Sent, path: Path) -> Run:
        """Return the run that builds the network in the file, for devices of the project; a repeated request gets the same.

        Raises InvalidInput for a file that cannot be taken, saying why.
        """
        spec = self.check(sent)
        known = self._runs.requested(sent.project, sent.request_id)
        if known is not None:
            return known
        digest = await asyncio.to_thread(digest_of_file, path)
        if sent.digest and digest != sent.digest:
            raise InvalidInput(
                f"what arrived of {sent.file_name} is not what was sent: it has another digest; send it again"
            )
        async with self._reading:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                imported = await self._read(sent, spec, path, digest, Path(scratch))
        reason = f"{imported.file_name}, sent by {imported.by}"
        return self._runs.start(sent.project, Trigger.IMPORT, reason, sent.request_id, imported)

    async def _read(self, sent: Sent, spec: ProjectSpec, path: Path, digest: str, scratch: Path) -> ImportedModel:
        name = _plain(sent.file_name)
        # Errors name the file as its owner does.
        await asyncio.to_thread(shutil.copyfile, path, scratch / name)
        order: dict[str, Any] = {
            "file": str((scratch / name).absolute()),
            "classes": [*sent.classes],
            "mean": [*sent.mean],
            "std": [*sent.std],
            "resize": sent.resize,
            "size_px": sent.size_px,
        }
        try:
            found = await run_job("import", order, scratch / "job", lambda progress: None)
        except JobError as error:
            raise InvalidInput(str(error)) from error
        except JobCrashed as error:
            raise InvalidInput(
                f"the process that read {name} died of it ({error}); is it a whole file, and is there memory for it?"
            ) from error
        task = Task(found.pop("task").upper())
        if task is not spec.task:
            raise InvalidInput(
                f"{name} is for {task.lower()}, and the project {sent.project} for {spec.task.lower()}; send it to another project"
            )
        dataset = sent.dataset or spec.dataset
        notes = [*found.pop("notes"), *self._notes(dataset, found["classes"])]
        return ImportedModel(
            file_name=name,
            digest=await asyncio.to_thread(self._blobs.put_file, path),
            by=signature(sent.by),
            network=await asyncio.to_thread(self._blobs.put_file, scratch / "job" / "network.onnx"),
            notes=notes,
            task=task,
            dataset=dataset,
            **found,
        )

    def _notes(self, dataset: str, classes: Sequence[str]) -> list[str]:
        """Return what is to be said of a data set. Raises InvalidInput where it shows none of the network's classes."""
        if not dataset:
            return ["No data set is named: its accuracy is not known, and builds are only held to compute the same."]
        shown = self._datasets.get(dataset).classes
        strange = [name for name in shown if name not in classes]
        if len(strange) == len(shown):
            raise InvalidInput(
                f"the data set {dataset!r} shows {_some(shown)}, of which the network knows none: its classes are"
                f" {_some(classes)}; name its classes as the data set does (--classes), or another data set"
            )
        if strange:
            return [f"The network does not know {_some(strange)} of the data set; pictures of it count as wrong."]
        return []


def _check_trust(sent: Sent) -> None:
    if not sent.trust_pickle:
        raise InvalidInput(
            f"{sent.file_name} is a pickle: loading it runs whatever code is in it, as the hub's user. Export it where it was trained"
            f" (yolo export model={sent.file_name} format=onnx) and send the .onnx; or, if you trust who made it, say"
            " --trust-pickle"
        )
    asking = current()
    if asking is not None and not asking.role.may(Role.ADMIN):
        raise PermissionDenied("only administrators may send a .pt, which runs code on the hub; send the .onnx")


def _plain(file_name: str) -> str:
    """Return a name that is safe for a file here, with its ending in small letters."""
    path = Path(file_name)
    stem = re.sub(r"[^\w.-]", "_", path.stem)[-_LONGEST_NAME:]
    return f"{stem}{path.suffix.lower()}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
