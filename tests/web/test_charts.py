"""Pictures: scales, round ticks, and safety where there is little to draw."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.datasets.rules_health import ClassHealth
from milonga_hub.rollouts.rules_progress import Span
from milonga_hub.runs.models import Candidate, Stage, StageState
from milonga_hub.web import words
from milonga_hub.web.axes import Range, axes
from milonga_hub.web.charts.agreement import agreement, scatter
from milonga_hub.web.charts.confusion import confusion
from milonga_hub.web.charts.drawing import Scale, text
from milonga_hub.web.charts.heatmap import heatmap
from milonga_hub.web.charts.histogram import histogram
from milonga_hub.web.charts.honeycomb import Cell, honeycomb
from milonga_hub.web.charts.lineage import Box, lineage
from milonga_hub.web.charts.lines import Series, lines
from milonga_hub.web.charts.networks import Network
from milonga_hub.web.charts.parallel import parallel
from milonga_hub.web.charts.pareto import pareto
from milonga_hub.web.charts.precision import precision_recall
from milonga_hub.web.charts.qr import qr
from milonga_hub.web.charts.splits import splits
from milonga_hub.web.charts.table import as_csv
from milonga_hub.web.charts.timeline import timeline
from milonga_hub.web.charts.training import training
from milonga_hub.web.charts.waves import waves

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(st.floats(1e-3, 1e6), st.floats(1.01, 1e4), st.booleans())
def test_ticks_are_few_and_within_the_scale(low: float, factor: float, logarithmic: bool) -> None:
    scale = Scale(low, low * factor, 0.0, 100.0, logarithmic)
    ticks = scale.ticks()
    assert len(ticks) <= 14
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_a_value_outside_stays_on_the_picture() -> None:
    assert Scale(0.0, 1.0, 0.0, 100.0)(50.0) == pytest.approx(105.0)


def test_a_logarithmic_scale_gives_equal_ratios_equal_room() -> None:
    scale = Scale(1.0, 100.0, 0.0, 100.0, logarithmic=True)
    assert scale(10.0) == pytest.approx(50.0)


def test_words_in_pictures_are_escaped() -> None:
    assert "<b>" not in text(0, 0, "<b>")


def test_pictures_without_data_are_empty() -> None:
    assert [pareto("t", [], 1.0), training([]), timeline([Stage(name="train")], NOW), histogram("x", 0, 1, [0, 0])] == [
        ""
    ] * 4
    assert lines("x", "ms", [Series("a", [], 0)]) == ""


def test_one_point_is_enough_for_every_picture() -> None:
    candidate = Candidate(key="k", run="r", device_type="t", subnet="s", accuracy=0.5, predicted_ms=1.0, on_front=True)
    stage = Stage(name="train", state=StageState.RUNNING, started_at=NOW, progress=0.5)
    for picture in (
        pareto("t", [candidate], None),
        training([{"epoch": 1.0, "loss": 0.0, "accuracy_largest": 0.5}]),
        timeline([stage], NOW),
        histogram("x", 0.0, 1.0, [1]),
        lines("x", "ms", [Series("a", [(NOW, 0.0)], 0)]),
    ):
        assert ElementTree.fromstring(picture).attrib["role"] == "img"


def test_a_limit_is_drawn_where_it_is() -> None:
    candidates = [
        Candidate(key=str(ms), run="r", device_type="t", subnet=str(ms), accuracy=0.9, predicted_ms=ms)
        for ms in (1.0, 4.0)
    ]
    root = ElementTree.fromstring(pareto("t", candidates, 2.0))
    limit = next(each for each in root.iter() if each.get("class") == "limit")
    dots = [float(each.get("cx", "0")) for each in root.iter() if each.get("class") == "dot"]
    assert float(limit.get("x1", "0")) == pytest.approx(sum(dots) / 2, abs=0.1)


def test_what_was_measured_without_a_prediction_is_drawn_where_it_was_measured() -> None:
    candidates = [
        Candidate(key=str(ms), run="r", device_type="t", subnet=str(ms), accuracy=0.9, measured_ms=ms, chosen=ms > 1)
        for ms in (1.0, 4.0)
    ]
    root = ElementTree.fromstring(pareto("t", candidates, 2.0))
    limit = next(each for each in root.iter() if each.get("class") == "limit")
    dots = [each for each in root.iter() if str(each.get("class", "")).startswith("dot")]
    assert [each.get("class") for each in dots] == ["dot measured", "dot chosen"]
    places = [float(each.get("cx", "0")) for each in dots]
    assert float(limit.get("x1", "0")) == pytest.approx(sum(places) / 2, abs=0.1)
    tips = " ".join(each.text or "" for each in root.iter() if not each.tag.endswith("metadata"))
    assert "measured 4 ms" in tips and "predicted" not in tips.replace("front, predicted", "")


@pytest.mark.parametrize(
    ("seconds", "wanted", "form"),
    [
        (110, ["0:00", "0:20", "0:40"], "min:s since the start"),
        (430, ["0:00", "1:00", "2:00"], "min:s since the start"),
        (14000, ["0:00", "0:30", "1:00"], "h:min since the start"),
        (500000, ["0", "1 d", "2 d"], None),
    ],
)
def test_times_on_the_axis_of_a_run_are_round_and_all_in_one_form(seconds: int, wanted: list[str], form: str) -> None:
    stage = Stage(name="train", state=StageState.SUCCEEDED, started_at=NOW, ended_at=NOW + timedelta(seconds=seconds))
    ticks = [each.text for each in ElementTree.fromstring(timeline([stage], NOW)).iter() if each.get("class") == "tick"]
    assert ticks[:3] == wanted and (form is None or form in ticks)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (words.duration(0.0), "0 s"),
        (words.duration(4.25), "4.2 s"),
        (words.duration(95.0), "95 s"),
        (words.duration(7200.0), "2 h"),
        (words.ms(None), "–"),
        (words.size(240_000), "240 kB"),
        (words.version("projects/digits/runs/2"), "digits run 2"),
        (words.version("models/digits/versions/3"), "digits v3"),
        (words.ago(NOW, NOW + timedelta(minutes=5)), "5 min ago"),
        (words.ago(None), "never"),
    ],
)
def test_figures_are_said_in_words(said: str, wanted: str) -> None:
    assert said == wanted


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_a_honeycomb_has_a_cell_and_a_link_for_each_device(count: int) -> None:
    picture = honeycomb([Cell(f"pi-{index}", "healthy", "<b>well</b>") for index in range(count)])
    if not count:
        assert picture == ""
        return
    svg = ElementTree.fromstring(picture)
    assert [cell.get("href") for cell in svg.findall("a")] == [f"/devices/pi-{index}" for index in range(count)]
    _, _, width, height = (float(part) for part in svg.get("viewBox", "").split())
    corners = [point.split(",") for cell in svg.iter("polygon") for point in cell.get("points", "").split()]
    assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in corners)


def test_a_code_for_cameras_says_in_words_what_it_is() -> None:
    svg = ElementTree.fromstring(qr('curl "x"', "a <command>"))
    assert svg.get("aria-label") == "a <command>"
    assert svg.get("style") is None


def _measured(key: str, predicted: float, measured: float | None, half_width: float = 0.5) -> Candidate:
    return Candidate(
        key=key, run="r", device_type="t", subnet=key, accuracy=0.9, predicted_ms=predicted, measured_ms=measured,
        predicted_low_ms=predicted - half_width, predicted_high_ms=predicted + half_width,
    )  # fmt: skip


def test_predictions_are_held_against_what_devices_measured() -> None:
    networks = [_measured("a", 2.0, 2.2), _measured("b", 4.0, 5.0), _measured("c", 8.0, None)]
    found = agreement(networks)
    assert found is not None
    assert (found.count, found.inside_count) == (2, 1)
    assert found.median_relative_error == pytest.approx((0.2 / 2.2 + 0.2) / 2)
    assert scatter("t", networks, {}).count("<circle") == 2
    assert agreement(networks[2:]) is None and scatter("t", networks[2:], {}) == ""


def test_a_line_of_parallel_coordinates_ends_where_a_figure_is_missing() -> None:
    networks = [_measured("a", 2.0, 2.2), _measured("b", 4.0, None)]
    along = axes(networks)
    shown = {each.key: Network(number, each.key, "/") for number, each in enumerate(networks)}
    root = ElementTree.fromstring(parallel(along, networks, shown, {"predicted_ms": Range(3.0, None)}))
    strands = {each.get("data-network"): each.findall("{*}path") for each in root.iter() if each.get("data-network")}
    points = {number: strand[0].get("d", "").count("L") + 1 for number, strand in strands.items()}
    assert points == {"0": 3, "1": 2}
    assert [each.get("class") for each in root.iter() if str(each.get("class")).startswith("band")] == [
        "band on",
        "band",
        "band",
    ]


def test_networks_in_pictures_lead_to_their_pages() -> None:
    networks = [_measured("a", 2.0, 2.2), _measured("b", 4.0, None)]
    shown = {"a": Network(0, "a", "/a?<b>"), "b": Network(1, "b", "/b", out=True)}
    root = ElementTree.fromstring(pareto("t", networks, None, networks=shown))
    links = {each.get("href"): each.get("class") for each in root.iter() if each.get("href")}
    assert links == {"/a?<b>": "network", "/b": "network out"}
    assert root.get("role") == "group"


def test_a_lineage_joins_each_box_to_those_before_it_that_are_there() -> None:
    columns = [
        ("data set", [Box("d", "parts <1>", address="/datasets/parts")]),
        ("nothing", []),
        ("run", [Box("r", "run 1", after=["d", "gone"]), Box("s", "run 2", after=["d"])]),
    ]
    root = ElementTree.fromstring(lineage(columns))
    assert len([each for each in root.iter() if each.get("class") == "wire"]) == 2
    assert [each.get("href") for each in root.iter() if each.get("href")] == ["/datasets/parts"]
    assert root.get("aria-label") == "Lineage. data set: parts <1>; run: run 1, run 2"
    assert lineage([("data set", [])]) == ""


def test_figures_behind_a_picture_are_inside_it() -> None:
    root = ElementTree.fromstring(lines("Latency", "ms", [Series("<pi>", [(NOW, 1.5)], 0)]))
    assert root.findtext("{*}metadata") == "time,line,Latency ms\n2026-03-01T12:00:00+00:00,<pi>,1.5\n"


def test_a_name_is_no_formula_in_a_spreadsheet() -> None:
    assert as_csv([["=cmd()", -1.0, None, True, 'a "b", c']]) == '\'=cmd(),-1,,yes,"a ""b"", c"\n'


def test_a_confusion_has_a_square_for_each_pair_and_says_how_many_are_right() -> None:
    root = ElementTree.fromstring(confusion([[8, 2], [1, 9]], ["<bolt>", "nut"]))
    assert len([each for each in root.iter() if str(each.get("class")).startswith("pair")]) == 4
    assert root.get("aria-label") == "Confusion of 2 classes: 17 of 20 pictures answered rightly"
    assert root.findtext("{*}metadata") == "shown,<bolt>,nut\n<bolt>,8,2\nnut,1,9\n"
    assert confusion([], []) == confusion([[0]], ["x"]) == ""
    assert precision_recall({"recall": [0.5], "precision": [1.0]}) == ""


def test_bars_of_both_splits_say_how_unlike_they_are() -> None:
    alike = splits([ClassHealth("a", 10, 5), ClassHealth("b", 10, 5)])
    unlike = splits([ClassHealth("a", 10, 0), ClassHealth("<b>", 0, 5)])
    assert alike is not None and unlike is not None
    assert (alike.distance, unlike.distance) == (0.0, 1.0)
    assert "<b>" not in unlike.picture
    assert splits([ClassHealth("a", 10, 0)]) is None


def test_a_heat_map_is_strongest_where_most_boxes_are() -> None:
    drawn = ElementTree.fromstring(heatmap([[0, 1], [2, 4]], 5)).iter()
    shares = [float(each.get("fill-opacity", "0")) for each in drawn if each.get("class") == "heat"]
    assert shares[:3] == [0.25, 0.5, 1.0]
    assert heatmap([[0]], 0) == ""


def test_waves_are_drawn_once_the_first_has_begun() -> None:
    waiting = Span(1, None, None, 0, 0, 3, ())
    running = Span(0, NOW, None, 1, 1, 2, (NOW + timedelta(seconds=10),))
    assert waves([waiting], NOW) == ""
    picture = waves([running, waiting], NOW + timedelta(seconds=30))
    for wanted in ("bar failed", "arrival", "1 of 2, 1 failed, 30 s", "waits"):
        assert wanted in picture, wanted


def test_times_along_an_axis_can_be_told_in_the_zone_of_the_reader() -> None:
    picture = lines("x", "ms", [Series("a", [(NOW, 1.0), (NOW + timedelta(seconds=60), 2.0)], 0)])
    assert 'data-time="2026-03-01T12:00:00+00:00" data-form="seconds"' in picture and "data-zone" in picture


def test_bins_of_powers_are_labelled_with_what_people_see() -> None:
    svg = histogram("pixels a side", 4.0, 14.0, [0, 3, 1, 0, 0], powers=True)
    assert ">16</text>" in svg and ">1024</text>" in svg and ">10</text>" not in svg
    assert "\n64,3\n" in svg
