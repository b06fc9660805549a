"""From an empty hub to a model on three devices, by clicking: a real hub, real agents, a real training, a real browser.

Nothing is typed in a terminal but what the page gives to run on a device; the test starts each agent with the token or the
fingerprint of that command, as the installer would.
"""

from __future__ import annotations

import base64
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e import digits
from tests.e2e.loop import PROJECT, classify
from tests.e2e.processes import QUICKLY, System
from tests.web.people import PASSWORD
from tests.web.shots import keep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; install one to run the browser tests"),
]
# One board three times: one type to measure, to search and to build for.
BOARD = ("--simulate", "raspberry-pi-5", "--threads", "1", "--memory-mb", "1024", "--engines", "onnxruntime")
# Longer than a busy machine takes for a training; nothing waits for that long where all is well.
PATIENCE_MS = 900_000
# Two digits that even a short training tells apart, with as few steps as there can be.
PICTURES = 30


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with System(tmp_path, ("--heartbeat-seconds", "1", "--telemetry-seconds", "1", *QUICKLY)) as system:
        system.start_hub()
        yield system


@pytest.fixture
def page(system: System) -> Iterator[Page]:
    """Return a page that must give the browser no reason to complain: errors, failed or refused loads, dialogs."""
    found: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(base_url=f"http://{system.addresses['http']}")
        page.set_default_timeout(60_000)
        page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("dialog", lambda dialog: found.append(dialog.message))
        page.on("response", lambda answer: found.append(answer.url) if answer.status >= 400 else None)
        yield page
        # Pages that follow the hub would complain of its end.
        page.goto("about:blank")
        browser.close()
    assert found == []


def test_an_empty_hub_leads_to_a_model_on_three_devices_without_a_terminal(
    system: System, page: Page, tmp_path: Path
) -> None:
    expect.set_options(timeout=60_000)
    try:
        _make_the_first_account(page, system)
        _add_two_devices(page, system)
        _let_a_third_one_ask(page, system)
        pictures = _send_pictures(page, tmp_path)
        _answer_the_questions(page)
        _approve_what_the_run_made(page)
        _see_devices_serve(page, pictures)
    finally:
        expect.set_options(timeout=30_000)


def _make_the_first_account(page: Page, system: System) -> None:
    page.goto(system.set_up_link)
    keep(page, "path-1-first-account")
    page.get_by_label("Name").fill("kim")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make the account and sign in").click()
    expect(page.get_by_role("heading", name="First steps")).to_be_visible()
    keep(page, "path-2-empty-hub")


def _add_two_devices(page: Page, system: System) -> None:
    page.get_by_role("link", name="Add a device").click()
    page.get_by_label("How many devices").fill("2")
    page.get_by_role("button", name="Make the command").click()
    expect(page.get_by_role("img", name="The command as a QR code")).to_be_visible()
    command = page.locator("#command").inner_text()
    assert command.startswith(f"curl -fsSL http://{system.addresses['http']}/install.sh | sudo sh -s -- --token ")
    for name in ("press", "saw"):
        system.start_agent(name, command.split("--token ")[1], BOARD)
    # The page follows by itself.
    expect(page.get_by_role("heading", name="2 devices joined")).to_be_visible()
    expect(page.get_by_text("The token is used up.")).to_be_visible()
    keep(page, "path-3-devices-joined")


def _let_a_third_one_ask(page: Page, system: System) -> None:
    page.get_by_role("link", name="Make another command").click()
    page.get_by_text("Without a token").click()
    command = page.locator("#ask-command").inner_text()
    keep(page, "path-4-without-a-token")
    page.locator("#asking").get_by_role("link", name="Devices").click()
    system.start_agent("lathe", "", (*BOARD, "--fingerprint", command.split("--fingerprint ")[1]))
    page.get_by_role("group", name="Decide on lathe").get_by_role("button", name="Approve").click()
    expect(page.locator("tr", has_text="lathe").locator(".badge.online")).to_be_visible()
    expect(page.locator("td .badge.online")).to_have_count(3)
    keep(page, "path-5-three-devices")


def _send_pictures(page: Page, folder: Path) -> list[digits.Picture]:
    """Drop a zip on the page, and return its pictures."""
    pictures = [one for one in digits.load(known=400, later=1, live=1).known if one.label in "01"][:PICTURES]
    packed = folder / f"{PROJECT}.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for index, picture in enumerate(pictures):
            archive.writestr(f"{picture.label}/{index}.png", picture.png)
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name="Send labelled pictures").click()
    keep(page, "path-6-send-pictures")
    _drop(page, packed)
    expect(page.locator("#chosen")).to_contain_text(f"{PROJECT}.zip")
    expect(page.locator("#name")).to_have_value(PROJECT)
    told = _listen(page)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("heading", name="Health")).to_be_visible()
    assert told[0] == "Sending…" and any(words.startswith("Sen") for words in told[1:]), told
    expect(page.get_by_role("definition").filter(has_text="class folders")).to_be_visible()
    expect(page.locator(".gallery img")).to_have_count(PICTURES)
    keep(page, "path-7-data-set")
    return pictures


def _drop(page: Page, file: Path) -> None:
    """Let go of a file over the page, as a hand would."""
    dropped = page.evaluate_handle(
        """([name, data]) => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
          transfer.items.add(new File([bytes], name, { type: "application/zip" }));
          return transfer;
        }""",
        [file.name, base64.b64encode(file.read_bytes()).decode()],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": dropped})


def _listen(page: Page) -> list[str]:
    """Return a list that what the page tells of its progress is added to."""
    told: list[str] = []
    page.expose_function("heard", lambda words: told.append(words))
    page.evaluate(
        """new MutationObserver(() => window.heard(document.getElementById("doing").textContent))
             .observe(document.getElementById("doing"), { childList: true })"""
    )
    return told


def _answer_the_questions(page: Page) -> None:
    page.get_by_role("link", name="Make a project with it").click()
    expect(page.get_by_label("1. What is to be found?")).to_have_value(PROJECT)
    page.get_by_label(re.compile("raspberry-pi-5")).check()
    page.get_by_label(re.compile("at once for people")).check()
    page.get_by_label("5 MB", exact=True).check()
    page.get_by_label(re.compile("a balance")).check()
    expect(page.get_by_label("ask me before it goes out")).to_be_checked()
    page.get_by_label(re.compile("Seconds that a first part")).fill("0.5")
    expect(page.locator("#yaml")).to_contain_text("soak_seconds: 0.5")
    expect(page.locator("#preview")).to_contain_text("3 devices match now.")
    keep(page, "path-8-five-questions")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name="Run 1")).to_be_visible()


def _approve_what_the_run_made(page: Page) -> None:
    """Watch the run, which nobody loads again, to its end."""
    page.evaluate("window.stillTheSamePage = true")
    expect(page.locator("ol.stages li.running")).to_have_count(1)
    keep(page, "path-9-run-under-way")
    expect(page.get_by_text("is ready and waits for your approval")).to_be_visible(timeout=PATIENCE_MS)
    assert page.evaluate("window.stillTheSamePage") is True
    expect(page.get_by_role("heading", name="Training")).to_be_visible()
    keep(page, "path-10-run-waits")
    page.get_by_role("link", name="Look at the rollout and approve it").click()
    expect(page.get_by_text("Nothing has gone out yet.")).to_be_visible()
    keep(page, "path-11-rollout-waits")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("h1 .badge.succeeded")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator(".wave")).to_have_count(2)
    keep(page, "path-12-rolled-out")


def _see_devices_serve(page: Page, pictures: list[digits.Picture]) -> None:
    page.get_by_text("Next: see what").get_by_role("link", name="devices").click()
    served = page.get_by_role("region", name="Devices").get_by_role("link", name=f"{PROJECT} v1")
    expect(served).to_have_count(3)
    keep(page, "path-13-devices-serve")
    for name in ("press", "saw", "lathe"):
        page.get_by_role("link", name=name).first.click()
        url = page.locator("dt", has_text="answers at").locator("+ dd code").inner_text()
        assert classify(url, pictures[0].png) in ("0", "1")
        page.go_back()
    page.get_by_role("link", name="Overview").click()
    expect(page.locator(".tile", has_text="devices online")).to_contain_text("3 of 3")
    keep(page, "path-14-overview")
