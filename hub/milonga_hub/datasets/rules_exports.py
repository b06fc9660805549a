"""What pictures, classes and boxes are called where a data set is written, so that reading it gives the same again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from posixpath import basename, splitext

from milonga_hub.datasets.archive import holds_class
from milonga_hub.datasets.rules import TRAIN, Box, Sample
from milonga_hub.datasets.values import Layout
from milonga_hub.errors import FailedPrecondition
from milonga_hub.tasks import Task

LAYOUTS = {
    Task.CLASSIFICATION: (Layout.CLASS_FOLDERS,),
    Task.DETECTION: (Layout.YOLO, Layout.COCO, Layout.VOC),
}
_MOST_STEM = 60
_DIGEST = 16
# Characters that XML 1.0 cannot say, or that its reader changes (production 2 and section 2.11).
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def folder_of(sample: Sample) -> str:
    """Return the folder of a picture's split, as every tool knows it."""
    return "train" if sample.split == TRAIN else "val"


def stem_of(sample: Sample) -> str:
    """Return the name of a picture without ending: its own, in letters that no tool stumbles over, and some of its digest.

    No two pictures have one name, and a picture that comes back has the same one again.
    """
    digest = sample.digest.removeprefix("sha256:")[:_DIGEST]
    own = re.sub(r"[^A-Za-z0-9_-]+", "-", splitext(basename(sample.path))[0]).strip("-")
    own = own.removesuffix(digest).strip("-")[:_MOST_STEM].strip("-")
    return f"{own}-{digest}" if own else digest


def check(task: Task, layout: Layout, classes: Iterable[str]) -> None:
    """Raise FailedPrecondition where a layout cannot hold the data set, naming one that can."""
    if layout not in LAYOUTS[task]:
        others = " or ".join(one.spoken for one in LAYOUTS[task])
        raise FailedPrecondition(f"{layout.spoken} is no layout for {task.lower()}; export it as {others}")
    if layout is Layout.CLASS_FOLDERS:
        unfit = [name for name in classes if not holds_class(name)]
        if unfit:
            raise FailedPrecondition(
                f"class {unfit[0]!r} cannot be the name of a folder; import the pictures under another name"
            )
    if layout is Layout.COCO:
        unfit = [name for name in classes if not name.strip()]
        if unfit:
            raise FailedPrecondition(f"class {unfit[0]!r} is no name for COCO; export it as YOLO")
    if layout is Layout.VOC:
        unfit = [name for name in classes if not _in_xml(name)]
        if unfit:
            raise FailedPrecondition(f"class {unfit[0]!r} cannot be written in XML; export it as YOLO or COCO")


def _in_xml(name: str) -> bool:
    return name != "" and name == name.strip() and "\n" not in name and _NOT_XML.search(name) is None


def edges(box: Box) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom as shares of the picture, none outside of it, that are read as this box again.

    A box is kept as its centre and size, rounded: taken as they stand, its edges may lie a millionth outside, where readers cut
    them off and find another box.
    """
    left, right = _span(box.x, box.width)
    top, bottom = _span(box.y, box.height)
    return left, top, right, bottom


def _span(centre: float, length: float) -> tuple[float, float]:
    beyond_low, beyond_high = length / 2 - centre, centre + length / 2 - 1
    # Rounding moves an edge by half of the last decimal at most. Two thirds of it taken off the length, and the centre moved
    # by as much, bring the edge back, and both are far from being rounded to something else.
    inward = 2 / 3 * max(beyond_low, beyond_high, 0.0)
    middle = centre + (inward if beyond_low > beyond_high else -inward)
    return max(middle - (length - inward) / 2, 0.0), min(middle + (length - inward) / 2, 1.0)
