"""A drawing shows every block of a subnet, and those that it leaves out."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from milonga_hub.learning.drawing import drawing
from milonga_hub.learning.spaces import SPACES, space


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_drawing_is_whole_and_says_what_it_shows(name: str) -> None:
    one = space(name, 32)
    small, large = (ElementTree.fromstring(drawing(one, which)) for which in (one.smallest(), one.largest()))
    bars = [len(picture.findall(".//{*}rect")) for picture in (small, large)]
    assert bars[0] == bars[1] >= 3
    outlines = [rect for rect in small.findall(".//{*}rect") if rect.get("stroke-dasharray")]
    left_out = {name.rpartition(".")[0] for name in one.unused(one.values(one.smallest()))}
    assert len(outlines) == len(left_out)
    assert not [rect for rect in large.findall(".//{*}rect") if rect.get("stroke-dasharray")]
    assert small.findtext("{*}title") == one.describe(one.smallest())
