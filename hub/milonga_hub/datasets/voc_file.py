"""An annotation file of Pascal VOC. It may come from anyone: a document type, with which entities come, is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from milonga_hub.datasets.rules_pixels import PixelBox

# An object takes some 300 bytes; nobody marks ten thousand in one picture.
_MOST_BYTES = 4 << 20
_ROOT = re.compile(rb"<annotation[\s>]")


@dataclass(frozen=True)
class VocFile:
    """What one file says of its picture."""

    #: Empty where it names none.
    filename: str
    #: 0 × 0 where it says none.
    size_px: tuple[float, float]
    objects: tuple[PixelBox, ...]
    #: Objects that were left out because they are marked difficult.
    difficult: int
    flaws: tuple[str, ...]


def looks_like_one(data: bytes) -> bool:
    return _ROOT.search(data) is not None


def parse(data: bytes) -> VocFile:
    """Return the file's content. Raises ValueError saying why it cannot be read."""
    if len(data) > _MOST_BYTES:
        raise ValueError(f"has {len(data):,} bytes; {_MOST_BYTES:,} are the most of an annotation")
    try:
        root = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise ValueError("has a document type or entities, which annotations do not need; remove them") from error
    except (ParseError, ValueError, LookupError) as error:
        raise ValueError(f"cannot be read as XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"is XML of {root.tag!r}; annotations begin with <annotation>")
    objects, flaws, difficult = [], [], 0
    for number, each in enumerate(root.findall("object"), start=1):
        if _text(each, "difficult") == "1":
            difficult += 1
            continue
        read = _object(each, number)
        if isinstance(read, str):
            flaws.append(read)
        else:
            objects.append(read)
    size = (_number(root, "size/width") or 0, _number(root, "size/height") or 0)
    return VocFile(_text(root, "filename"), size, tuple(objects), difficult, tuple(flaws))


def _object(element: Element, number: int) -> PixelBox | str:
    label = _text(element, "name")
    name = f"object {number}"
    if not label:
        return f"{name} has no name; write its class"
    edges = [_number(element, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
    if None in edges:
        return f"{name} ({label}) has no bndbox of four numbers; write xmin, ymin, xmax and ymax in pixels"
    left, top, right, bottom = (edge or 0 for edge in edges)
    # Pixels are counted from 1, and the last one belongs to the box (development kit, "Annotation").
    return PixelBox(label, left - 1, top - 1, right, bottom, f"{name} ({label})")


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(element: Element, path: str) -> float | None:
    try:
        return float(_text(element, path))
    except ValueError:
        return None
