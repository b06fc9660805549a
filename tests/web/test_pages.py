"""Every page over the real application, filled and empty."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from milonga_hub.alerts.models import AlertSeverity, AlertSignal, AlertState, AlertView
from milonga_hub.db import utc_now
from milonga_hub.devices import helping
from milonga_hub.devices.values import HelpKind
from milonga_hub.labelling.models import SampleState
from milonga_hub.projects.models import DriftTrigger, ProjectSpec, RetrainingPolicy
from milonga_hub.rollouts.models import Rollout, RolloutState
from milonga_hub.runs.models import RunState, Trigger
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.web.pages.ways import ADVICE, ways

from tests.web.filled import HOSTILE, Services, filled
from tests.web.people import signed_in

LISTS = (
    "/",
    "/devices",
    "/datasets",
    "/projects",
    "/rollouts",
    "/monitoring",
    "/alerts",
    "/labelling",
    "/new/devices",
    "/new/datasets",
    "/new/projects",
    "/api/docs",
)
THINGS = (
    "/devices/pi5-1",
    "/datasets/digits",
    "/datasets/digits?label=1&split=train&start=2",
    "/projects/digits",
    "/labelling/digits",
    "/runs/digits/1",
    "/runs/digits/2",
    "/runs/digits/3",
    "/runs/digits/2/search",
    "/runs/digits/2/search?accuracy.min=0.94&choice_depth.max=6",
    "/runs/digits/3/search",
    "/models/digits/builds",
    "/models/digits/versions/1",
    "/models/digits/versions/2",
    "/models/digits/versions/1?against=2",
    "/models/digits/versions/1/builds/raspberry-pi-5:onnxruntime:int8",
    "/models/digits/versions/1/builds/raspberry-pi-5:onnxruntime:int8/network",
    "/rollouts/digits-1",
    "/rollouts/digits-2",
    "/monitoring?project=digits&device=pi5-1",
    "/monitoring?device=pi5-1,pi5-2&window=6h",
    "/monitoring?window=24h&until=2026-03-01T12:00",
    "/devices?selector=role%3Dcanary",
    "/devices/pi5-1/log",
    "/new/alert_rules",
    "/alert_rules/error-rate",
    "/new/alert_channels",
    "/new/alert_channels?kind=webhook",
)
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Reads a page as strictly as a test can: tags must nest; collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.seen if tag in tags]


@pytest.mark.parametrize("path", LISTS + THINGS)
def test_a_page_of_a_filled_hub_is_whole_and_accessible(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    page = Page(answer.text)
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("nav")) == 1
    ids = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert len(ids) == len(set(ids)), "an id stands for one thing"
    named = {attributes["aria-labelledby"] for _, attributes in page.seen if "aria-labelledby" in attributes}
    assert named <= set(ids)
    assert all(svg["aria-label"] for svg in page.all("svg"))
    assert len(page.all("metadata")) == len(page.all("svg")), "every picture has its figures to take along"


@pytest.mark.parametrize("path", LISTS)
def test_a_page_of_an_empty_hub_says_what_to_do(empty: TestClient, path: str) -> None:
    answer = empty.get(path)
    assert answer.status_code == 200
    Page(answer.text)
    if path != "/api/docs":
        assert re.search(r'class="button"|under <a href|<form class="card|milonga ', answer.text)


@pytest.mark.parametrize("path", LISTS + THINGS)
def test_hostile_words_are_shown_and_never_run(client: TestClient, path: str) -> None:
    page = Page(client.get(path).text)
    scripts = page.all("script")
    assert [script for script in scripts if not re.fullmatch(r"/static/\w+\.js", script.get("src") or "")] == []
    for _, attributes in page.seen:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("href", "src", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#", "?")), "nothing comes from or goes elsewhere"


def test_the_hostile_words_are_really_there(client: TestClient) -> None:
    shown = HOSTILE.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;")
    for path in ("/devices/pi5-1", "/runs/digits/2", "/rollouts/digits-2", "/datasets/digits"):
        wanted = "&lt;script&gt;" if path == "/datasets/digits" else shown
        assert wanted in client.get(path).text, path


def test_simulated_devices_are_marked_wherever_they_are_shown(client: TestClient) -> None:
    paths = (
        "/",
        "/devices",
        "/devices/pi5-1",
        "/runs/digits/1",
        "/rollouts/digits-1",
        "/models/digits/versions/1",
        "/monitoring",
    )
    for path in paths:
        assert '"badge simulated"' in client.get(path).text, path


def test_types_say_that_nobody_has_verified_them(client: TestClient) -> None:
    for path in ("/devices", "/devices/pi5-1", "/runs/digits/1"):
        assert "not verified on hardware" in client.get(path).text, path


def test_a_run_shows_its_front_limit_choice_and_comparison(client: TestClient) -> None:
    text = client.get("/runs/digits/2").text
    for wanted in (
        "limit 4 ms",
        "dot chosen",
        'class="front"',
        "chosen subnet",
        "new pictures",
        "+22.1 points",
        "Class by class, 12 classes",
        "Training",
    ):
        assert wanted in text, wanted


def test_a_running_run_shows_how_far_it_is_and_may_be_cancelled(client: TestClient) -> None:
    text = client.get("/runs/digits/3").text
    assert "epoch 8 of 20" in text
    assert "(attempt 2)" in text and "(on gpu-1 (10.0.0.7, node 5d41402a))" in text
    assert "/runs/digits/3/cancel" in text
    assert "/cancel" not in client.get("/runs/digits/1").text


def test_addresses_from_when_monitoring_was_called_telemetry_lead_there(client: TestClient) -> None:
    answer = client.get("/telemetry?device=pi5-1,pi5-2&window=6h", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (301, "/monitoring?device=pi5-1,pi5-2&window=6h")
    assert "<h1>Monitoring</h1>" in client.get(answer.headers["location"]).text


def test_drift_and_reference_are_on_the_monitoring_page(client: TestClient) -> None:
    text = client.get("/monitoring").text
    assert "brightness" in text
    assert 'class="reference"' in text
    assert "nothing yet" in text


def test_the_colours_and_sizes_of_pictures_are_on_the_monitoring_page(client: TestClient) -> None:
    text = client.get("/monitoring?device=pi5-1").text
    for name in ("strength of colours (chroma)", "warmth of colours", "pixels a side"):
        assert f"Distribution of {name} over" in text


def test_embeddings_are_shown_where_one_build_has_made_their_cells(client: TestClient) -> None:
    shown = "Distribution of groups of alike pictures (embedding), near ones first over"
    assert shown in client.get("/monitoring?device=pi5-1").text
    assert shown not in client.get("/monitoring").text


def test_the_buttons_of_a_rollout_pause_and_resume_it(client: TestClient, hub: Services) -> None:
    paused = client.post("/rollouts/digits-2/pause", follow_redirects=False)
    assert (paused.status_code, paused.headers["location"]) == (303, "/rollouts/digits-2")
    assert hub.rollouts.get("digits-2").state is RolloutState.PAUSED
    assert "/rollouts/digits-2/resume" in client.get("/rollouts/digits-2").text
    assert not [one for one in hub.alerts.look() if one.rule == "rollout-paused"], "a person knows of it"
    client.post("/rollouts/digits-2/resume")
    assert hub.rollouts.get("digits-2").state is RolloutState.RUNNING


def test_an_alert_says_what_to_do_and_is_acknowledged_and_silenced_on_its_page(
    client: TestClient, hub: Services
) -> None:
    (drift,) = (one for one in hub.alerts.list()[0] if one.rule == "drift")
    path = f"/alerts/{drift.id}"
    assert path in client.get("/").text and path in client.get("/alerts").text
    assert "milonga runs start digits" in client.get(path).text
    assert client.post(f"{path}/silence", data={"hours": "3", "reason": HOSTILE}).status_code == 200
    assert HOSTILE not in client.get("/alerts").text
    assert client.post(f"{path}/acknowledge", data={"note": "at work"}).status_code == 200
    Page(text := client.get(path).text)
    assert "silenced until" in text and "ana" in text and "Take it over, or add a note" in text
    assert 'href="/alerts#silences"' in text and f"{path}/silence" not in text
    (silence,), _ = hub.alerts.silences()
    client.post(f"/alert_silences/{silence.id}/end")
    text = client.get(path).text
    assert "silenced until" not in text and f"{path}/silence" in text


def test_the_overview_shows_each_device_by_its_health_and_what_happened(client: TestClient) -> None:
    page = Page(client.get("/").text)
    assert len([cell for cell in page.all("polygon") if "cell" in (cell["class"] or "")]) == 4
    text = client.get("/").text
    for wanted in ("digits v1", "on its way to another build", "What happened", "rollout began", "device joined"):
        assert wanted in text, wanted


def test_what_cannot_be_done_is_said_on_a_page(client: TestClient) -> None:
    answer = client.post("/rollouts/digits-1/pause")
    assert answer.status_code == 409
    assert "<h1>This did not work</h1>" in answer.text


def test_a_wrong_selector_is_explained_and_not_an_error_page(client: TestClient) -> None:
    answer = client.get("/devices", params={"selector": "type in (("})
    assert answer.status_code == 200
    assert 'role="alert"' in answer.text


@pytest.mark.parametrize(
    "path", ["/nowhere", "/devices/nobody", "/runs/digits/99", "/models/none/versions/1", "/rollouts/x"]
)
def test_what_is_not_there_is_a_page_with_404(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "<h1>Not found</h1>" in answer.text


def test_a_run_that_waits_is_approved_or_refused_on_its_page(client: TestClient, hub: Services) -> None:
    run = hub.runs.start("digits", Trigger.SCHEDULE, "due since Saturday")
    for verb, after in (("approve", RunState.QUEUED), ("refuse", RunState.CANCELLED)):
        hub.runs.change(run.name, state=RunState.AWAITING_APPROVAL)
        text = client.get(f"/runs/digits/{run.number}").text
        assert "due since Saturday" in text and f"/runs/digits/{run.number}/{verb}" in text
        assert "waits for approval" in client.get("/projects/digits").text
        client.post(f"/runs/digits/{run.number}/{verb}")
        assert hub.runs.get(run.name).state is after
    text = client.get(f"/runs/digits/{run.number}").text
    assert "Refused by ana" in text and "Let it begin after all" in text


def test_who_decides_after_somebody_else_is_told_what_is_and_finds_back(client: TestClient, hub: Services) -> None:
    run = hub.runs.start("digits", Trigger.SCHEDULE, "due since Sunday")
    hub.runs.change(run.name, state=RunState.AWAITING_APPROVAL)
    page = f"/runs/digits/{run.number}"
    assert page in client.get("/").text.partition('class="tiles"')[0]
    client.post(f"{page}/approve")
    assert "due since Sunday; approved by ana" in client.get(page).text
    assert page not in client.get("/").text.partition('class="tiles"')[0]
    late = client.post(f"{page}/refuse", headers={"Referer": f"{client.base_url}{page}?x=1"})
    assert late.status_code == 409
    assert "does not wait for approval: it is queued (due since Sunday; approved by ana)" in late.text
    assert f'href="{page}?x=1">See how it is now' in late.text
    for strange in (f"http://elsewhere.example{page}", f"{client.base_url}//elsewhere.example{page}"):
        elsewhere = client.post(f"{page}/refuse", headers={"Referer": strange})
        assert elsewhere.status_code >= 400 and "See how it is now" not in elsewhere.text
    hub.runs.cancel(run.name)


def test_the_search_page_shows_one_network_of_a_type_and_narrows_the_others(client: TestClient) -> None:
    page = Page(client.get("/runs/digits/2/search").text)
    rows = [row for row in page.all("tr") if "data-network" in row]
    assert len(rows) == 12 and not [row for row in rows if "hidden" in row]
    (address,) = {each["href"] for each in page.all("a") if each.get("data-network") == "7"}
    narrowed = client.get(f"{address}&accuracy.min=0.955")
    rows = [row for row in Page(narrowed.text).all("tr") if "data-network" in row]
    assert 0 < len([row for row in rows if "hidden" in row]) < 12
    assert [row["data-network"] for row in rows if row.get("class") == "chosen"] == ["7"]
    assert "&amp;accuracy.min=0.955" in narrowed.text
    wrong = client.get("/runs/digits/2/search?accuracy.min=lots")
    assert "&#39;lots&#39; is not a figure for accuracy" in wrong.text
    assert client.get("/runs/digits/2/search?type=toaster").status_code == 404


def test_the_search_page_of_a_run_that_has_found_nothing_says_so(client: TestClient) -> None:
    assert "They appear here while the run searches" in client.get("/runs/digits/3/search").text


def test_a_network_that_no_file_tells_of_says_what_to_do(client: TestClient, hub: Services) -> None:
    result = {
        "engine": "tvm",
        "precision": "fp32",
        "state": "REJECTED",
        "reason": "too large",
        "directory": "",
        "files": [],
    }
    figures = {
        "size_bytes": 0,
        "accuracy": None,
        "subnet_accuracy": None,
        "max_abs_error": None,
        "bundle": "",
        "log": "",
    }
    hub.builds.record("models/digits/versions/1", "toaster", [{**result, **figures, "gates": []}], None)
    answer = client.get("/models/digits/versions/1/builds/toaster:tvm:fp32/network")
    assert answer.status_code == 200
    assert "milonga build start models/digits/versions/1 toaster/onnxruntime/fp32" in answer.text


def test_devices_are_compared_and_a_fleet_is_shown_by_version(client: TestClient) -> None:
    fleet = client.get("/monitoring").text
    for wanted in ("digits v1", "Requests a second", "Latency: median", "Answers by class", "limit", "has drifted"):
        assert wanted in fleet, wanted
    both = client.get("/monitoring?device=pi5-1,pi5-2&window=1h").text
    assert "Latency, p95: pi5-1" in both and "Latency, p95" in both
    assert 'data-live="telemetry/pi5-1,telemetry/pi5-2,drift/,alerts/"' in both


def test_a_device_page_says_what_came_from_where_and_whom_the_device_serves(client: TestClient) -> None:
    serving, fetching = client.get("/devices/pi5-1").text, client.get("/devices/pi5-2").text
    assert "<code>192.168.1.7:8600</code>" in serving and "kB sent to them" in serving
    assert "60 kB from the hub and 120 kB from neighbours for 480 kB" in fetching


def test_a_time_that_has_passed_is_shown_as_it_was(client: TestClient) -> None:
    text = client.get("/monitoring?window=6h&until=2026-03-01T12:00%2B09:00").text
    assert ">2026-02-28 21:00:00 UTC</time> to" in text and ">2026-03-01 03:00:00 UTC</time>" in text
    assert "No telemetry in this time" in text and "data-live" not in text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("window=fortnight", "is no window"),
        ("until=then", "is no time"),
        ("device=nobody", "there is no device nobody"),
        ("device=a,b,c,d,e,f,g", "too many to compare"),
    ],
)
def test_what_telemetry_cannot_show_is_said(client: TestClient, query: str, said: str) -> None:
    answer = client.get(f"/monitoring?{query}")
    assert answer.status_code == 200 and said in answer.text


def test_a_version_shows_where_it_comes_from_and_how_it_stands_against_another(client: TestClient) -> None:
    text = client.get("/models/digits/versions/2").text
    for wanted in (
        "Lineage. data set: digits v2; run: digits run 2; supernet:",
        "digits-2, running",
        "onnxruntime/int8",
    ):
        assert wanted in text, wanted
    assert '<th scope="col" class="num">v1</th><th scope="col" class="num">v2</th>' in text, "the one before"
    assert (
        '<th scope="col" class="num">v2</th><th scope="col" class="num">v1</th>'
        in client.get("/models/digits/versions/1?against=2").text
    )
    assert "It is the first; choose a later one" in client.get("/models/digits/versions/1").text
    assert client.get("/models/digits/versions/1?against=9").status_code == 404


def test_a_build_shows_how_it_answers_class_by_class(client: TestClient) -> None:
    text = client.get("/models/digits/versions/1/builds/raspberry-pi-5:onnxruntime:int8").text
    for wanted in ("Confusion of 10 classes", "Precision against recall", "All 10 classes, the worst first"):
        assert wanted in text, wanted


def test_a_rollout_shows_its_waves_its_devices_step_by_step_and_canary_against_control(client: TestClient) -> None:
    text = client.get("/rollouts/digits-2").text
    for wanted in (
        "Waves over time: Wave 1 1 of 1, Wave 2 0 of 3",
        'class="pip running" title="running"',
        "Canary against",
    ):
        assert wanted in text, wanted
    grid = re.findall(r'class="pip (\w+)"', text[text.index('id="wave-1"') :])
    assert grid == ["running", *["pending"] * 5] * 3


def test_figures_of_the_new_version_stand_beside_those_of_the_others(client: TestClient, hub: Services) -> None:
    since = min(wave.started_at for wave in hub.rollouts.get("digits-2").waves if wave.started_at)
    for device, version, sequence in (("pi5-2", 2, 901), ("orin-1", 1, 902)):
        window = TelemetryWindow(
            device=device,
            boot_id="boot",
            sequence=sequence,
            started_at=since,
            ended_at=since + timedelta(seconds=1),
            project="digits",
            model_version=f"models/digits/versions/{version}",
            request_count=50 * version,
            error_count=5,
        )
        hub.telemetry.store([window])
    text = client.get("/rollouts/digits-2").text
    assert "digits v2, sent by this rollout" in text and "digits v1, on the other devices" in text
    assert '<td>errors</td><td class="num">5.0%</td><td class="num">10.0%</td><td class="num">-5.0 points</td>' in text


def test_a_run_shows_single_answers_what_its_jobs_take_and_what_they_told(client: TestClient) -> None:
    text = client.get("/runs/digits/3").text
    assert "epoch 8 of 20 &lt;script&gt;" in text and "Processor: train" in text and "Memory: train" in text
    whole = client.get("/runs/digits/3/log")
    assert whole.headers["content-type"].startswith("text/plain") and "UserWarning: lr_scheduler" in whole.text
    done = client.get("/runs/digits/2").text
    assert "Predictions" in done and 'class="example wrong"' in done and 'class="example right"' in done


def test_stages_that_are_still_to_come_say_what_they_are_for(client: TestClient) -> None:
    text = client.get("/runs/digits/3").text
    assert "times a few of them on your devices" in text and "this page follows it and may be closed" in text
    assert "times a few of them on your devices" not in client.get("/runs/digits/2").text


def test_a_device_that_is_on_line_is_asked_for_its_log_once_the_page_is_there(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(client.get("/devices/pi5-1/log").text)
    assert [each["data-later"] for each in page.all("section") if "data-later" in each] == ["/devices/pi5-1/log/answer"]
    monkeypatch.setitem(helping.SECONDS, HelpKind.LOG, 0.0)
    answer = client.get("/devices/pi5-1/log/answer").text
    assert "pi5-1 did not answer" in answer and 'id="answer"' in answer and "data-later" not in answer


def test_every_version_of_a_data_set_has_an_address_that_its_links_keep(client: TestClient) -> None:
    assert 'href="/datasets/digits?version=1"' in client.get("/runs/digits/1").text
    older = client.get("/datasets/digits", params={"version": 1}).text
    assert "This is version 1" in older and 'href="?version=1&amp;label=0#gallery"' in older
    newest = client.get("/datasets/digits").text
    assert "is the newest" not in newest and 'href="?label=0#gallery"' in newest
    assert client.get("/datasets/digits", params={"version": 9}).status_code == 404


def test_what_would_go_out_is_shown_to_who_approves(client: TestClient, hub: Services) -> None:
    waiting = Rollout(
        id="digits-9", project="digits", model_version="models/digits/versions/1", state=RolloutState.AWAITING_APPROVAL
    )
    with hub.database.session() as session:
        session.add(waiting)
    text = client.get("/rollouts/digits-9").text
    assert (
        "What would go out" in text and "/models/digits/versions/1/builds/raspberry-pi-5%3Aonnxruntime%3Aint8" in text
    )
    with hub.database.session() as session:
        session.delete(waiting)


def test_a_data_set_shows_what_to_look_at(client: TestClient, hub: Services) -> None:
    client.get("/datasets/digits")
    hub.datasets.likenesses.finish()
    text = client.get("/datasets/digits").text
    for wanted in ("Shares of classes in both splits", "Labels that may be wrong", "None among 36 that were looked at"):
        assert wanted in text, wanted


def test_one_thing_is_done_to_all_devices_that_match_and_each_stands_in_the_audit_log(
    client: TestClient, hub: Services
) -> None:
    form = {"verb": "label", "which": "all", "selector": "type=raspberry-pi-5", "labels": "shelf=three, role="}
    answer = client.post("/devices", data=form)
    assert "Set labels: done for 2 devices" in answer.text
    assert [hub.devices.get(name).labels.get("shelf") for name in ("pi5-1", "pi5-2", "orin-1")] == [
        "three",
        "three",
        None,
    ]
    assert "role" not in hub.devices.get("pi5-1").labels
    entries = [each.resource for each in hub.accounts.audit.page("ana")[0]]
    assert "/devices/pi5-1/label" in entries and "/devices/pi5-2/label" in entries
    client.post("/devices", data={"verb": "label", "device": "pi5-1", "labels": "role=canary"})
    some = client.post("/devices", data={"verb": "pin", "device": ["pi5-1", "nobody"]})
    assert "done for 1 device." in some.text and "nobody: no device" in some.text
    assert hub.devices.get("pi5-1").pinned_version
    client.post("/devices", data={"verb": "unpin", "device": "pi5-1"})
    for wrong, words in (
        ({"verb": "pin"}, "no device is chosen"),
        ({"verb": "label", "device": "pi5-1"}, "which labels?"),
    ):
        answer = client.post("/devices", data=wrong)
        assert (answer.status_code, words in answer.text) == (400, True)


def test_policies_are_changed_on_a_page_and_all_else_of_a_project_stays(client: TestClient, hub: Services) -> None:
    before = hub.projects.get("digits").spec
    form = {"new_labels": "25", "cool_down_hours": "2", "soak_seconds": "30", "approve_rollouts": "true"}
    assert client.post("/settings/policies/digits", data=form).status_code == 200
    after = hub.projects.get("digits").spec
    changed = (after.retraining.new_labels, after.retraining.cool_down_seconds, after.rollout.soak_seconds)
    assert changed == (25, 7200.0, 30.0)
    assert after.rollout.approval and not after.retraining.drift.enabled
    assert (after.limits, after.samples, after.rollout.waves) == (before.limits, before.samples, before.rollout.waves)
    wrong = client.post("/settings/policies/digits", data={**form, "soak_seconds": "-1"})
    assert wrong.status_code == 400 and 'role="alert"' in wrong.text
    hub.projects.apply("digits", before)


def test_policies_of_a_project_that_trains_nothing_keep_what_their_form_does_not_have(tmp_path: Path) -> None:
    hub = Services(tmp_path)
    watched = RetrainingPolicy(drift=DriftTrigger(enabled=True), cool_down_seconds=86_400.0)
    hub.projects.apply("elsewhere", ProjectSpec(retraining=watched))
    with signed_in(hub) as client:
        text = client.get("/settings/policies").text
        assert 'name="on_drift"' in text and 'name="new_labels"' not in text
        form = {"soak_seconds": "30"}
        assert client.post("/settings/policies/elsewhere", data={**form, "on_drift": "true"}).status_code == 200
        assert hub.projects.get("elsewhere").spec.retraining == watched
        assert client.post("/settings/policies/elsewhere", data=form).status_code == 200
        assert not hub.projects.get("elsewhere").spec.retraining.drift.enabled


def test_the_labelling_page_tells_which_devices_have_sent_what_they_may(client: TestClient, hub: Services) -> None:
    before = hub.projects.get("digits").spec
    assert "Devices that have sent what they may" not in client.get("/labelling/digits").text
    few = before.samples.model_copy(update={"pictures_per_day": 3})
    hub.projects.apply("digits", before.model_copy(update={"samples": few}))
    hub.samples.offer("pi5-1", "digits", [], 0)
    text = client.get("/labelling/digits").text
    hub.projects.apply("digits", before)
    assert "The project lets each send 3 pictures and 20 MB in 24 hours" in text
    assert '<a href="/devices/pi5-1">pi5-1</a></td><td class="num">9 of 3</td>' in text


def test_pictures_that_wait_when_sampling_is_switched_off_are_deleted_on_the_page(tmp_path: Path) -> None:
    hub = filled(tmp_path)
    with signed_in(hub) as ana:
        text = ana.post("/labelling/digits/sampling/off").text
        assert "Sampling is off" in text and "Delete all that wait" in text
        text = ana.post("/labelling/digits/discard").text
        assert "Delete all that wait" not in text
    waiting = hub.labelling.list("digits", SampleState.WAITING)[0]
    assert waiting == [] and hub.labelling.summary("digits").waiting == 0


def test_a_project_says_which_run_is_due_and_what_it_waits_for(client: TestClient, hub: Services) -> None:
    text = client.get("/projects/digits").text
    assert "A run is due (drift in brightness on pi5-1" in text
    assert "and waits: run 3 has not ended yet." in text
    told = client.get("/api/v1/projects/digits/due_run").json()
    assert told["reason"].startswith("drift in brightness on pi5-1") and told["trigger"] == "DRIFT"
    assert (told["held_back_by"], told["held_back_until"]) == ("run 3 has not ended yet", None)
    assert "실행할 때가 되었고(" in client.get("/projects/digits", headers={"accept-language": "ko"}).text
    before = hub.projects.get("digits").spec
    hub.projects.apply("digits", before.model_copy(update={"retraining": RetrainingPolicy()}))
    assert "A run is due" not in client.get("/projects/digits").text
    assert client.get("/api/v1/projects/digits/due_run").json() is None
    hub.projects.apply("digits", before)


def test_an_alert_leads_to_the_pages_that_help(client: TestClient, hub: Services) -> None:
    text = client.get("/alerts").text
    for address in ("/monitoring?device=pi5-1", "/labelling/digits", "/projects/digits"):
        assert '<p class="ways">' in text and f'href="{address}"' in text
    assert "milonga telemetry drift" not in text, "what to click comes first"
    drift = next(one for one in hub.alerts.list()[0] if one.signal is AlertSignal.DRIFT)
    assert f'href="/alerts/{drift.id}"' in text
    assert "milonga telemetry drift" in client.get(f"/alerts/{drift.id}").text


def test_an_alert_of_a_device_that_took_no_version_leads_to_its_steps_and_to_the_rollout() -> None:
    now = utc_now()
    alert = AlertView(
        id="1", rule="rolled-back", signal=AlertSignal.ROLLED_BACK, subject="devices/pi 1", project="digits", message="",
        severity=AlertSeverity.WARNING, state=AlertState.OPEN, next_step="", since=now, opened_at=now,
    )  # fmt: skip
    assert [address for address, _ in ways(alert)] == ["/devices/pi%201#steps", "/projects/digits#rollouts"]
    refused = alert.model_copy(update={"signal": AlertSignal.TELEMETRY_REFUSED})
    assert [address for address, _ in ways(refused)] == ["/devices/pi%201"]


def test_every_kind_of_alert_says_what_to_do_on_pages() -> None:
    assert {*ADVICE} == {*AlertSignal}


def test_the_record_names_the_webhook_that_a_form_made(client: TestClient, hub: Services) -> None:
    sent = {"name": "chat", "url": "https://chat.example/hook", "event": ["alert.opened"]}
    assert client.post("/settings/webhooks", data=sent).status_code == 200
    entries, _ = hub.accounts.audit.page(page_size=1)
    assert (entries[0].operation, entries[0].resource) == ("POST /settings/webhooks", "/settings/webhooks/chat")
