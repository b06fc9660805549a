"""What Prometheus reads, by its own parser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.tally import MAX_VERSIONS, Tally
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests.telemetry.windows import window
from tests.web.filled import HOSTILE, Services

DOCS = Path(__file__).parent.parent.parent / "docs"
DASHBOARD = DOCS / "grafana" / "milonga.json"
METRICS_PAGE = DOCS / "metrics.md"


def test_the_fleet_is_counted_and_no_device_is_named(client: TestClient, hub: Services) -> None:
    text = client.get("/metrics").text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parsed(text)
        for sample in family.samples
    }
    assert samples["milonga_devices", "online", "raspberry-pi-5"] == 2
    version = ("digits", "models/digits/versions/1")
    stored = hub.telemetry.tally.totals()
    assert samples["milonga_served_requests_total", *version] == sum(one.request_count for one in stored)
    assert "pi5-1" not in text and HOSTILE not in text
    assert samples["milonga_alerts", "warning"] >= 1
    assert client.get("/metrics").text.count("milonga_http_requests_total{") >= 1


def test_latencies_are_a_histogram_of_what_devices_measured() -> None:
    from milonga_hub.web.metrics import _buckets

    counts = [0] * 140
    counts[40:45] = [1, 2, 3, 2, 2]
    buckets, total_seconds = _buckets(Histogram(low=-2.0, high=5.0, counts=counts))
    assert dict(buckets)["0.001"] == 0.0
    assert dict(buckets)["0.00177828"] == dict(buckets)["+Inf"] == 10.0
    assert total_seconds == pytest.approx(10 * 0.0013, rel=0.1)


def test_power_and_throttling_are_of_machines_that_tell() -> None:
    from milonga_hub.web.metrics import _power_buckets

    power = Histogram(low=-2.0, high=10.0, counts=[int(index in (40, 41)) for index in range(96)])
    tally = Tally()
    tally.add([window(0), *(window(number, inputs={"power": power, "throttled": Histogram(0.0, 2.0, [1, 1])})
                            for number in (1, 2))])  # fmt: skip
    (one,) = tally.totals()
    assert one.power is not None and one.throttled is not None
    buckets, watts = _power_buckets(one.power)
    assert (dict(buckets)["8"], dict(buckets)["11.3137"], dict(buckets)["+Inf"]) == (0.0, 4.0, 4.0)
    assert watts == pytest.approx(4 * 8 * 2 ** (1 / 8), rel=0.01)
    assert one.throttled.counts == [2, 2]


def test_versions_that_nobody_serves_any_more_make_room() -> None:
    tally = Tally()
    tally.add(window(number, model_version=f"models/digits/versions/{number}") for number in range(MAX_VERSIONS + 5))
    assert len(tally.totals()) == MAX_VERSIONS
    assert tally.totals()[0].model_version == "models/digits/versions/5"


def _exposed(hub: Services) -> dict[str, set[str]]:
    """Return the labels of each metric by the name that its samples have."""
    from milonga_hub.web.metrics import _Collector

    found: dict[str, set[str]] = {}
    for family in _Collector(hub).collect():
        labels = {*family._labelnames}
        if family.type == "histogram":
            found |= {f"{family.name}_bucket": {*labels, "le"}, f"{family.name}_count": labels}
            found[f"{family.name}_sum"] = labels
        else:
            found[family.name + ("_total" if family.type == "counter" else "")] = labels
    return found


def _queries() -> list[tuple[str, str]]:
    """Return each query of the dashboard, and how its lines are named."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(target["expr"], target["legendFormat"]) for panel in panels for target in panel["targets"]]


def test_the_dashboard_for_grafana_asks_only_for_what_there_is(hub: Services) -> None:
    exposed = _exposed(hub)
    for query, legend in _queries():
        kept = [re.split(r", ?", labels) for labels in re.findall(r"by \((.*?)\)", query)]
        for name, matchers in re.findall(r"(milonga_\w+)(\{.*?\})?", query):
            assert name in exposed, query
            labels = exposed[name]
            for some in (*kept, re.findall(r"(\w+)=", matchers)):
                assert {*some} <= labels, (query, labels)
            named = {*re.findall(r"{{(\w+)}}", legend)}
            assert named <= ({*kept[0]} if kept else labels), (query, legend)


def test_the_dashboard_for_grafana_selects_labels_by_values_that_they_have(hub: Services) -> None:
    from milonga_hub.web.metrics import _Collector

    values = {pair for family in _Collector(hub).collect() for one in family.samples for pair in one.labels.items()}
    # Of machines that tell, of which the filled hub has none.
    values.add(("throttled", "yes"))
    asked = {pair for query, _ in _queries() for pair in re.findall(r'(\w+)="(.*?)"', query)}
    assert asked and asked <= values


def test_the_dashboard_and_the_page_of_metrics_have_every_metric_with_its_labels(hub: Services) -> None:
    exposed = _exposed(hub)
    families = {re.sub("_(bucket|count|sum)$", "", name): labels - {"le"} for name, labels in exposed.items()}
    asked = {
        re.sub("_(bucket|count|sum)$", "", name)
        for query, _ in _queries()
        for name in re.findall(r"milonga_\w+", query)
    }
    assert asked == {*families}
    rows = re.findall(r"^\| (`milonga_[^|]*)\|([^|]*)\|", METRICS_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {
        name: {*re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", labels))}
        for names, labels in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert told == families
