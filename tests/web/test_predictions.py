"""Single predictions of a network that finds objects, as the grid of a run's page draws them."""

from __future__ import annotations

from milonga_hub.datasets.rules import Box
from milonga_hub.web.pages.examples import Example
from milonga_hub.web.pages.page import _ENVIRONMENT

from tests.web.filled import HOSTILE
from tests.web.test_pages import Page

CRATE, BALL = Box(HOSTILE, 0.3, 0.3, 0.2, 0.2), Box("ball", 0.7, 0.7, 0.1, 0.1)


def test_boxes_of_people_and_of_the_network_are_drawn_and_told_by_class() -> None:
    well = Example("sha256:1", "", "", 0.8, True, [CRATE, CRATE, BALL], [CRATE, BALL])
    badly = Example("sha256:2", "", "", 0.0, True, [BALL], [])
    page_of = _ENVIRONMENT.from_string(
        '{% from "pictures.html" import prediction_grid %}{{ prediction_grid(all, "scenes") }}'
    )
    text = page_of.render(all=[badly, *[well] * 8])
    page = Page(text)
    assert "<script" not in text and "2 &lt;script&gt;" in text and "1 ball" in text and "none" in text
    marks = [each["class"] for each in page.all("rect")]
    assert (marks.count("box drawn"), marks.count("box found")) == (1 + 8 * 3, 8 * 2)
    assert [each["class"] for each in page.all("figure")] == ["example wrong", *["example right"] * 8]
    assert page.all("details"), "what is beyond two rows is unfolded"
