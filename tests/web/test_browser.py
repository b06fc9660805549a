"""The dashboard in a real browser, against a real server in a process of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from tests.web.people import PASSWORD
from tests.web.relay import relay_to
from tests.web.shots import keep_as_it_is

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; install one to run the browser tests"),
]
ROOT = Path(__file__).parent.parent.parent
PATHS = (
    "/",
    "/devices",
    "/devices/pi5-1",
    "/devices/pi5-1/log",
    "/datasets",
    "/datasets/digits",
    "/new/datasets",
    "/new/projects",
    "/new/devices",
    "/projects",
    "/projects/digits",
    "/labelling",
    "/labelling/digits",
    "/runs/digits/1",
    "/runs/digits/2",
    "/runs/digits/3",
    "/runs/digits/2/search",
    "/models/digits/builds",
    "/models/digits/versions/1",
    "/models/digits/versions/1/builds/raspberry-pi-5:onnxruntime:int8",
    "/models/digits/versions/1/builds/raspberry-pi-5:onnxruntime:int8/network",
    "/rollouts",
    "/rollouts/digits-2",
    "/monitoring",
    "/monitoring?device=pi5-1,pi5-2",
    "/alerts",
    "/alert_rules/drift",
    "/new/alert_channels",
    "/settings",
    "/settings/users",
    "/settings/webhooks",
    "/settings/policies",
    "/new/models",
    "/settings/audit",
    "/settings/usage",
    "/settings/hubs",
    "/api/docs",
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with looking() as address:
        yield address


@contextmanager
def looking(*words: str) -> Iterator[str]:
    """Serve a hub to look at in a process of its own."""
    command = [sys.executable, "-m", "tests.web.look", "0", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    expect.set_options(timeout=30_000)  # A page that is slow on a busy machine is not wrong.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def signed_in(browser: Browser, address: str) -> Any:
    """Return what a browser keeps of having signed in: through the page, and back to the page that was asked for."""
    page = browser.new_page(base_url=address)
    page.goto("/devices?selector=site=busan")
    _sign_in(page)
    expect(page).to_have_url(f"{address}/devices?selector=site=busan")
    state = page.context.storage_state()
    page.close()
    return state


def _sign_in(page: Page) -> None:
    """Fill in the form that a page led to."""
    page.get_by_label("Name").fill("ana")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


@pytest.fixture
def page(browser: Browser, address: str, signed_in: Any) -> Iterator[Page]:
    """Return a page that must give the browser no reason to complain: errors, failed or refused loads, dialogs."""
    found: list[str] = []
    page = browser.new_page(base_url=address, storage_state=signed_in)
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", lambda dialog: found.append(dialog.message))
    page.on("response", lambda answer: found.append(answer.url) if answer.status >= 400 else None)
    yield page
    page.close()
    assert found == []


@pytest.mark.parametrize("path", PATHS)
def test_a_page_opens_without_complaints_and_fits_a_phone(page: Page, path: str) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto(path)
    expect(page.locator("h1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375, "wider than the screen"
    name = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-") or "overview"
    keep_as_it_is(page, f"page-{name}-375")
    page.set_viewport_size({"width": 1200, "height": 800})
    keep_as_it_is(page, f"page-{name}-1200")
    assert grave(page) == []
    page.emulate_media(color_scheme="dark")
    assert grave(page, rules=["color-contrast"]) == []


def grave(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """Return what axe-core finds of serious and critical impact: rule, help and the first element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="run: make install").Axe()
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = axe.run(page, options=options).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {each['nodes'][0]['html']}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def test_what_screen_readers_and_weak_eyes_cannot_use_is_found(page: Page) -> None:
    page.goto("/devices")
    page.evaluate(
        "document.querySelector('form button').textContent = ''; document.querySelector('h1').style.color = '#ddd'"
    )
    assert [each.partition(":")[0] for each in grave(page)] == ["button-name", "color-contrast"]


def test_people_find_their_way_by_clicking(page: Page) -> None:
    page.goto("/")
    page.get_by_role("link", name="digits run 3").first.click()
    expect(page.locator("h1")).to_contain_text("Run 3")
    page.get_by_role("navigation").get_by_role("link", name="Devices").click()
    page.get_by_role("link", name="pi5-1").first.click()
    expect(page.get_by_role("heading", name="Inventory")).to_be_visible()
    page.get_by_role("link", name="digits v1").first.click()
    expect(page.get_by_role("heading", name="Builds")).to_be_visible()


def test_the_keyboard_reaches_the_content_first(page: Page) -> None:
    page.goto("/devices")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_buttons_pause_and_resume_a_rollout(page: Page) -> None:
    page.goto("/rollouts/digits-2")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("h1")).to_contain_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("h1")).to_contain_text("running")
    expect(page.get_by_role("button", name="Abort for good")).to_be_hidden()


def test_a_page_follows_what_changes_without_being_loaded_again(page: Page, address: str) -> None:
    page.goto("/devices")
    expect(page.locator("#live-state")).to_have_text("live")
    page.evaluate("window.stillTheSamePage = true")
    page.locator("#selector").focus()
    _label(page, address, "seven")
    expect(page.locator("span.label", has_text="shelf=seven")).to_be_visible()
    assert page.evaluate("window.stillTheSamePage") is True
    expect(page.locator("#selector")).to_be_focused()


def _label(page: Page, address: str, shelf: str) -> None:
    """Change a label as another tab of the same browser would."""
    url, headers = f"{address}/api/v1/devices/pi5-2", {"Origin": address}
    expect(page.request.patch(url, data={"labels": {"shelf": shelf}}, headers=headers)).to_be_ok()


def test_a_page_is_right_again_after_its_connection_was_lost(browser: Browser, address: str, signed_in: Any) -> None:
    """What happens while nothing comes through is on the page as soon as the line is back, without a reload."""
    page = browser.new_page(storage_state=signed_in)
    with relay_to(address) as relay, leaving(page):
        page.goto(f"{relay.address}/devices")
        expect(page.locator("#live-state")).to_have_text("live")
        page.evaluate("window.stillTheSamePage = true")
        relay.cut()
        expect(page.locator("#live-state")).to_have_text("hub unreachable")
        _label(page, address, "lost")
        expect(page.locator("span.label", has_text="shelf=lost")).to_be_hidden()
        relay.mend()
        expect(page.locator("#live-state")).to_have_text("live", timeout=60_000)
        expect(page.locator("span.label", has_text="shelf=lost")).to_be_visible()
        # And it follows as before.
        _label(page, address, "found")
        expect(page.locator("span.label", has_text="shelf=found")).to_be_visible()
        assert page.evaluate("window.stillTheSamePage") is True
    page.close()


def test_a_connection_that_falls_silent_is_noticed(browser: Browser, address: str, signed_in: Any) -> None:
    """Where nothing ends the connection, such as behind a router that forgot it, the page itself does."""
    page = browser.new_page(storage_state=signed_in)
    page.clock.install()
    with relay_to(address) as relay, leaving(page):
        page.goto(f"{relay.address}/devices")
        expect(page.locator("#live-state")).to_have_text("live")
        relay.fall_silent()
        _label(page, address, "unheard")
        page.clock.fast_forward(60_000)
        expect(page.locator("#live-state")).to_have_text("hub unreachable")
        relay.mend()
        page.clock.fast_forward(10_000)
        expect(page.locator("#live-state")).to_have_text("live", timeout=60_000)
        page.clock.fast_forward(1_000)
        expect(page.locator("span.label", has_text="shelf=unheard")).to_be_visible()
    page.close()


def test_devices_are_ticked_and_labelled_together_and_a_tick_outlives_what_comes_in(page: Page, address: str) -> None:
    page.goto("/devices")
    expect(page.locator("#live-state")).to_have_text("live")
    page.get_by_label("Choose orin-1").check()
    _label(page, address, "nine")
    expect(page.locator("span.label", has_text="shelf=nine")).to_be_visible()
    expect(page.get_by_label("Choose orin-1")).to_be_checked()
    page.get_by_label("Tick all that are shown").check()
    expect(page.get_by_label("Choose zero2-1")).to_be_checked()
    expect(page.locator("#labels")).to_be_hidden()
    page.get_by_label("Do", exact=True).select_option("Set labels")
    page.locator("#labels").fill("rack=one")
    page.get_by_role("button", name="Do it").click()
    expect(page.get_by_role("status").filter(has_text="done for 4 devices")).to_be_visible()
    expect(page.locator("span.label", has_text="rack=one")).to_have_count(4)


def test_the_dark_of_the_night_is_respected(page: Page) -> None:
    def ground() -> list[int]:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return [int(part) for part in re.findall(r"\d+", colour)]

    page.emulate_media(color_scheme="dark")
    page.goto("/")
    assert max(ground()) < 60
    page.emulate_media(color_scheme="light")
    assert min(ground()) > 200


def test_pictures_become_a_project_and_a_run_without_a_terminal(page: Page, tmp_path: Path) -> None:
    for index in range(8):
        # A name that is too long for a plain tar header.
        path = tmp_path / "parts" / ("bolt", "nut")[index % 2] / f"{'long-' * 24}{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (20 * index, 90, 90)).save(path)
    page.goto("/datasets")
    page.get_by_role("link", name="New data set").click()
    page.locator("#folder").set_input_files(tmp_path / "parts")
    expect(page.locator("#name")).to_have_value("parts")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("heading", name="Health")).to_be_visible()
    expect(page.locator(".gallery img")).to_have_count(8)
    page.get_by_role("link", name="Make a project with it").click()
    page.get_by_label("Name").fill("No Name")
    expect(page.locator("#wrong-name")).to_contain_text("is not a project name")
    page.get_by_label("Name").fill("parts")
    page.get_by_label("Milliseconds for one picture").fill("40")
    expect(page.locator("#yaml")).to_contain_text("latency_ms: 40")
    expect(page.locator("#wrong-name")).to_be_empty()
    page.get_by_role("button", name="Start").click()
    expect(page.locator("h1")).to_contain_text("Run 1")


def test_what_was_filled_in_before_the_scripts_had_come_counts(page: Page) -> None:
    def fill_in(script: Route) -> None:
        page.get_by_label("Name").fill("No Name")
        page.get_by_label("Milliseconds for one picture").fill("40")
        script.continue_()

    page.route("**/static/form.js", fill_in)
    page.goto("/new/projects?dataset=digits")
    expect(page.locator("#wrong-name")).to_contain_text("is not a project name")
    page.get_by_label("Name").fill("digits-2")
    expect(page.locator("#yaml")).to_contain_text("latency_ms: 40")

    def choose(script: Route) -> None:
        page.locator("input[type=file]:not([webkitdirectory])").set_input_files(
            {"name": "early.onnx", "mimeType": "application/octet-stream", "buffer": b"1234"}
        )
        script.continue_()

    for name, path in (("upload", "/new/datasets"), ("model", "/new/models")):
        page.route(f"**/static/{name}.js", choose)
        page.goto(path)
        expect(page.locator("#chosen")).to_have_text("early.onnx, 4 B")


def test_a_model_is_chosen_and_sent_with_what_the_form_says(page: Page, tmp_path: Path) -> None:
    """What the hub does with it is told by tests/cli/test_models.py."""
    sent: list[str] = []

    def take(route: Route) -> None:
        sent.append(unquote(route.request.url.partition("?")[2]))
        route.fulfill(status=201, json={"run": {"project": "digits", "number": 1}})

    page.route("**/api/v1/projects/digits/models:import?*", take)
    page.goto("/new/models?project=digits")
    for name, words in (("notes.txt", "neither an .onnx file"), ("parts.onnx", "")):
        (tmp_path / name).write_bytes(b"x")
        page.locator("#file").set_input_files(tmp_path / name)
        expect(page.locator("#problem")).to_contain_text(words)
    page.get_by_label("Classes, one a line").fill("bolt\nnut\n")
    page.get_by_role("button", name="Send").click()
    expect(page).to_have_url(re.compile("/runs/digits/1$"))
    assert len(sent) == 1 and "file_name=parts.onnx" in sent[0] and "classes=bolt&classes=nut" in sent[0]


def test_a_page_with_a_command_follows_who_joins(page: Page, address: str) -> None:
    page.goto("/new/devices")
    page.get_by_role("button", name="Make the command").click()
    command = page.locator("#command").inner_text()
    assert f"curl -fsSL {address}/install.sh" in command
    expect(page.locator("#live-state")).to_have_text("live")
    with page.expect_response(re.compile("/new/devices/t-")):
        _label(page, address, "eight")
    expect(page.get_by_role("heading", name="Waiting for the device")).to_be_visible()
    assert page.locator("#command").inner_text() == command


def test_a_range_drawn_on_an_axis_narrows_networks_down_and_stands_in_the_address(page: Page) -> None:
    page.set_viewport_size({"width": 1200, "height": 900})
    page.goto("/runs/digits/2/search")
    strip = page.locator("[data-axis=accuracy] .strip")
    box = strip.bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2
    page.mouse.move(middle, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(middle, box["y"] + 2)
    page.mouse.up()
    shown = page.locator("[data-shown]")
    expect(shown).not_to_have_text("12")
    assert "accuracy.min=0.9" in page.url
    count = shown.inner_text()
    assert page.locator("tr[data-network]:visible").count() == int(count)
    page.reload()
    expect(shown).to_have_text(count)
    page.locator("tr[data-network]:visible a").nth(1).click()
    expect(page.locator("tr.chosen")).to_have_count(1)
    assert "accuracy.min=0.9" in page.url
    expect(shown).to_have_text(count)
    page.locator("[data-axis=accuracy] .strip").click()
    expect(shown).to_have_text("12")


def test_what_a_device_tells_of_itself_comes_once_its_page_is_there(page: Page) -> None:
    """Another page that has the element stands for the device, which says nothing here for as long as it is asked."""
    told = '<!doctype html><main><section id="answer"><pre class="log">restarted &lt;b></pre></section></main>'
    page.route("**/devices/pi5-1/log/answer", lambda route: route.fulfill(content_type="text/html", body=told))
    page.goto("/devices/pi5-1/log")
    expect(page.locator("#answer pre.log")).to_have_text("restarted <b>")
    expect(page.locator("#answer[aria-busy]")).to_have_count(0)


def test_a_box_of_a_network_opens_its_operations(page: Page) -> None:
    page.goto("/models/digits/versions/1/builds/raspberry-pi-5:onnxruntime:int8/network")
    expect(page.locator("code", has_text="/classifier/Gemm")).to_be_hidden()
    page.get_by_role("link", name="classifier: makes 10").focus()
    page.keyboard.press("Enter")
    expect(page.locator("code", has_text="/classifier/Gemm")).to_be_visible()


def _waiting(page: Page) -> Locator:
    return page.locator("#standing .value").first


def test_pictures_are_labelled_with_the_keyboard_alone(page: Page) -> None:
    page.goto("/labelling/digits")
    expect(page.locator("#accept")).to_contain_text("0")
    expect(_waiting(page)).to_have_text("5")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("Labelled 0.")
    # The counts come from the hub, by themselves.
    expect(_waiting(page)).to_have_text("4")
    asked = page.locator("#picture").get_attribute("src")
    page.keyboard.press("2")
    expect(page.locator("#said")).to_have_text("Labelled 1.")
    page.keyboard.press("z")
    expect(page.locator("#said")).to_have_text("Undone.")
    expect(page.locator("#picture")).to_have_attribute("src", asked or "")
    for left in (3, 2, 1, 0):
        page.keyboard.press("s")
        expect(_waiting(page)).to_have_text(str(left))
    expect(page.get_by_role("heading", name="Nothing waits")).to_be_visible()
    page.get_by_role("button", name=re.compile("to the data set now")).click()
    expect(page.locator("#standing")).to_contain_text("in v3")


@pytest.fixture(scope="module")
def apart() -> Iterator[str]:
    """Serve another hub, of which no other test counts the pictures."""
    with looking() as address:
        yield address


_POST = """(address) => fetch(address, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: "{}",
})"""


def test_what_somebody_said_of_a_picture_meanwhile_is_told_and_kept_or_replaced(browser: Browser, apart: str) -> None:
    page = browser.new_page(base_url=apart)
    page.goto("/labelling/digits")
    _sign_in(page)
    picture, meanwhile = page.locator("#picture"), page.locator("#meanwhile")
    for answer in ("Enter", "2"):
        expect(page.locator("#accept")).to_contain_text("the device says")
        asked = picture.get_attribute("src") or ""
        page.evaluate(_POST, asked.replace("/picture", ":skip"))
        page.keyboard.press("1")
        expect(meanwhile).to_be_visible()
        expect(meanwhile).to_contain_text("ana skipped it after this page showed it")
        page.keyboard.press(answer)
        expect(meanwhile).to_be_hidden()
        expect(picture).not_to_have_attribute("src", asked)
    expect(page.locator("#said")).to_have_text("Labelled 1.")
    page.close()


def test_a_picture_that_was_deleted_meanwhile_gives_way_to_what_waits(browser: Browser, apart: str) -> None:
    page = browser.new_page(base_url=apart)
    page.goto("/labelling/digits")
    _sign_in(page)
    expect(page.locator("#accept")).to_contain_text("the device says")
    page.evaluate("fetch('/api/v1/projects/digits/labelling:discard', { method: 'POST' })")
    expect(_waiting(page)).to_have_text("0")
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_contain_text("was deleted; there is nothing left to decide")
    expect(page.get_by_role("heading", name="Nothing waits")).to_be_visible()
    expect(page.locator("#station")).to_be_hidden()
    page.close()


def test_a_project_that_sends_no_pictures_says_how_to_change_that_and_does(page: Page) -> None:
    page.goto("/labelling/digits")
    page.get_by_text("Switch sampling off").click()
    page.get_by_role("button", name="No more pictures").click()
    expect(page.get_by_role("heading", name="Sampling is off")).to_be_visible()
    page.get_by_role("button", name="Switch sampling on").click()
    expect(page.get_by_text("Switch sampling off")).to_be_visible()


@contextmanager
def leaving(page: Page) -> Iterator[None]:
    """Leave the hub's pages before it ends: they would complain."""
    try:
        yield
    finally:
        page.goto("about:blank")


def test_boxes_are_drawn_named_moved_and_saved(page: Page) -> None:
    with looking("scenes") as address, leaving(page):
        page.goto(f"{address}/labelling/scenes")
        _sign_in(page)
        boxes = page.locator("#boxes li")
        expect(boxes).to_have_count(3)
        frame = page.locator("#picture").bounding_box()
        assert frame is not None
        corner = (frame["x"] + 0.05 * frame["width"], frame["y"] + 0.05 * frame["height"])
        page.mouse.move(*corner)
        page.mouse.down()
        page.mouse.move(frame["x"] + 0.25 * frame["width"], frame["y"] + 0.35 * frame["height"], steps=5)
        page.mouse.up()
        expect(boxes).to_have_text(["1. crate", "2. ball", "3. crate", "4. ball"])
        page.keyboard.press("2")
        expect(boxes.last).to_have_text("4. crate")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("+")
        expect(boxes).to_have_count(5)
        page.keyboard.press("Delete")
        expect(boxes).to_have_count(4)
        with page.expect_response(re.compile(":label$")) as answer:
            page.keyboard.press("Enter")
        drawn = answer.value.json()["boxes"][3]
        assert drawn["label"] == "crate"
        assert [drawn[side] for side in ("x", "y", "width", "height")] == pytest.approx([0.16, 0.2, 0.2, 0.3], abs=0.02)
        expect(boxes).to_have_count(3)
        assert grave(page) == []


def test_every_picture_can_be_taken_along(page: Page, tmp_path: Path) -> None:
    page.goto("/runs/digits/2/search")
    figure = page.locator("figure", has=page.locator("svg.chart")).first
    for kind, begins in (("CSV", b"\xef\xbb\xbfsubnet,precision"), ("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as download:
            figure.get_by_role("button", name=f"{kind} of").click()
        assert download.value.suggested_filename.endswith(
            f"accuracy-against-latency-on-jetson-orin-nano.{kind.lower()}"
        )
        download.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(begins)
    assert "class=" not in (tmp_path / "SVG").read_text(encoding="utf-8").partition(">")[2]
    with Image.open(tmp_path / "PNG") as picture:
        assert picture.width == 1120 and len(picture.getcolors(1 << 24) or []) > 20


def test_times_are_those_of_the_readers_zone(browser: Browser, address: str, signed_in: Any) -> None:
    with browser.new_context(base_url=address, storage_state=signed_in, timezone_id="Asia/Seoul") as context:
        page = context.new_page()
        page.goto("/monitoring?window=6h&until=2026-03-01T12:00")
        expect(page.locator("#until-hint time").last).to_have_text(re.compile("Mar 1, 2026, 9:00:00.PM GMT.9"))
        page.goto("/rollouts")
        expect(page.locator("time").first).to_have_attribute("title", re.compile("GMT.9"))
        # So are those along the axes of pictures, and those that readers give.
        page.goto("/monitoring?device=pi5-1&window=6h&until=2026-03-01T12:00")
        expect(page.get_by_label("until")).to_have_value("2026-03-01T21:00")
        page.get_by_label("until").fill("2026-03-01T22:30")
        page.get_by_role("button", name="Show").click()
        expect(page).to_have_url(re.compile("until=2026-03-01T13%3A30"))
        page.goto("/devices/pi5-1")
        expect(page.locator("text[data-zone]").first).to_have_text("GMT+9")
        told = page.locator("text[data-time]").first
        utc = datetime.fromisoformat(told.get_attribute("data-time") or "")
        assert (told.text_content() or "").startswith(f"{(utc + timedelta(hours=9)):%H:%M}")
