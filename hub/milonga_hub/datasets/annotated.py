"""Pictures with what annotation files say of them in pixels: become labelled pictures, or are left out with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from milonga_hub.datasets.parts import splits
from milonga_hub.datasets.reading import Kept, Read, told
from milonga_hub.datasets.rules import Box, Labelled
from milonga_hub.datasets.rules_pixels import PixelBox, frame, share


@dataclass
class Annotated:
    """What files say of one picture."""

    # The file that was read last.
    file: str = ""
    # 0 × 0 where none is said.
    said_px: tuple[float, float] = (0, 0)
    objects: list[PixelBox] = field(default_factory=list)
    # The splits that it is said to be in; empty where none is said.
    parts: set[str] = field(default_factory=set)
    flaws: list[str] = field(default_factory=list)


def label(found: Read, pictures: Mapping[str, Kept], annotated: Mapping[str, Annotated]) -> None:
    """Add the pictures that are kept with their boxes and splits, or the reason why one is left out."""
    there = {path: annotated[path] for path in pictures if path in annotated}
    chosen = splits({path: one.parts for path, one in there.items()})
    found.notes.extend(chosen.notes)
    for path, one in there.items():
        if path in chosen.left_out:
            continue
        boxes = _boxes(one, pictures[path])
        if isinstance(boxes, str):
            found.reject(path, boxes)
        else:
            found.labelled.append(Labelled(pictures[path].digest, "", path, boxes, chosen.chosen.get(path, "")))


def _boxes(one: Annotated, picture: Kept) -> tuple[Box, ...] | str:
    """Return the boxes of a picture, each once and in an order of their own; or what is wrong."""
    size = frame(one.said_px, (picture.width, picture.height))
    if isinstance(size, str):
        return f"{one.file}: {size}"
    flaws, boxes = list(one.flaws), set()
    for marked in one.objects:
        box = share(marked, size)
        if isinstance(box, str):
            flaws.append(f"{one.file}: {marked.name} {box}")
        else:
            boxes.add(box)
    return told(flaws, "flaws") if flaws else tuple(sorted(boxes))
