"""What an archive held, in whichever layout, and how its pictures become blobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from milonga import pictures

from milonga_hub.blobs import Sink
from milonga_hub.datasets.archive import Archive, Member
from milonga_hub.datasets.models import RejectedFile
from milonga_hub.datasets.rules import Labelled
from milonga_hub.datasets.values import Layout
from milonga_hub.tasks import Task

OnProgress = Callable[[int, int], None]

# So many flaws of one file are told with their words, the others counted.
_NAMED_FLAWS = 3


@dataclass(frozen=True)
class Kept:
    """A picture that is a blob now."""

    digest: str
    width: int
    height: int


@dataclass(frozen=True)
class Read:
    """What an archive held: pictures now kept as blobs, files that are none, and the names of all classes."""

    task: Task
    #: For class folders in no order; for detection in the order that numbers them.
    classes: tuple[str, ...]
    labelled: list[Labelled] = field(default_factory=list)
    rejected: list[RejectedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: None for what came in no archive.
    layout: Layout | None = None

    def reject(self, path: str, reason: str) -> None:
        self.rejected.append(RejectedFile(path=path, reason=reason))

    def keep(self, member: Member, blobs: Sink, smallest_px: int = 1) -> Kept | None:
        """Keep a picture; return None, with the reason noted, for one that cannot be used."""
        try:
            image = pictures.decode(member.data)
        except pictures.PictureError as error:
            self.reject(member.path, str(error))
            return None
        if min(image.size) < smallest_px:
            self.reject(member.path, f"is {image.width} by {image.height} pixels; {smallest_px} are the fewest")
            return None
        return Kept(blobs.put(member.data), *image.size)


def telling(archive: Archive, on_progress: OnProgress | None) -> Iterator[Member]:
    """Yield the files of an archive and tell after each how many there were."""
    for number, member in enumerate(archive.files(), start=1):
        yield member
        if on_progress is not None:
            on_progress(number, archive.contents.file_count)


def told(flaws: list[str], what: str) -> str:
    """Return the first flaws in words, and how many more there are of `what`."""
    more = len(flaws) - _NAMED_FLAWS
    return "; ".join(flaws[:_NAMED_FLAWS]) + (f"; and {more} more {what}" if more > 0 else "")
