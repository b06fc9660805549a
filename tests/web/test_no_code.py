"""From an empty hub to a run with nothing but a browser: pictures, a project, a device."""

from __future__ import annotations

import asyncio
import html
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from milonga_hub.datasets.web import ImportProgress
from milonga_hub.devices.models import Inventory
from milonga_hub.devices.service import Enrolment
from milonga_hub.projects.models import PROJECT_FILE, ProjectSpec
from milonga_hub.settings import Settings
from milonga_hub.transports.http import create_app
from PIL import Image

from tests.certificates import Key
from tests.web.filled import Services, pictures
from tests.web.people import ADDRESS, cookie_of, signed_in

HOSTILE_PATH = "a/<img src=x onerror=alert(1)>.png"
ANSWERS = {"name": "mine", "dataset": "mine", "fast": "100", "small": "own", "model_mb": "2", "priority": "BALANCED"}


@pytest.fixture
def hub(tmp_path: Path) -> Services:
    return Services(tmp_path)


@pytest.fixture
def client(hub: Services) -> Iterator[TestClient]:
    with signed_in(hub) as client:
        yield client


def _with_boxes() -> bytes:
    """Return a zip in YOLO's layout; one label file has a flawed line."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("data.yaml", "names: [bolt, nut]")
        for index in range(12):
            picture = io.BytesIO()
            Image.new("RGB", (64, 48), (index, 0, 0)).save(picture, "PNG")
            archive.writestr(f"images/{index}.png", picture.getvalue())
            line = "9 0.5 0.5 0.1 0.1" if index == 3 else f"{index % 2} 0.5 0.25 0.5 0.5"
            archive.writestr(f"labels/{index}.txt", f"0 0.5 0.5 0.1 0.1\n{line}\n")
    return packed.getvalue()


def _send(client: TestClient, data: bytes, name: str = "mine", **query: str) -> httpx.Response:
    answer: httpx.Response = client.post(f"/api/v1/datasets/{name}:import", params=query, content=data)
    return answer


def _shown(page: str) -> tuple[str, ProjectSpec]:
    """Return the project that the page shows as a file to copy."""
    found = re.search(r'<code id="yaml">(.*?)</code>', page, re.S)
    assert found is not None
    return PROJECT_FILE.parse(html.unescape(found[1]), "page")


def test_an_archive_as_the_body_becomes_a_version_and_tells_how_far_it_is(hub: Services) -> None:
    async def scenario() -> list[ImportProgress]:
        transport = httpx.ASGITransport(create_app(hub))
        with hub.events.listen("imports/r1") as news:
            async with httpx.AsyncClient(
                transport=transport, base_url=ADDRESS, cookies=cookie_of(hub), headers={"Origin": ADDRESS}
            ) as client:
                url = "/api/v1/datasets/mine:import?request_id=r1"
                made = await client.post(url, content=pictures(("a", "b")))
                again = await client.post(url, content=pictures(("a", "b")))
        assert (made.status_code, made.json()["name"]) == (201, "datasets/mine/versions/1")
        assert again.json() == made.json()
        return [(await news.next()).payload]

    told = asyncio.run(scenario())
    assert told == [ImportProgress(done=13, total=13)], "a slow listener hears the newest"
    assert list((hub.folder / "uploads-http").iterdir()) == []


def test_what_is_no_archive_or_too_large_or_badly_named_is_explained(hub: Services, client: TestClient) -> None:
    for name, data, status, words in (
        ("mine", b"x", 400, "not a whole zip or tar archive"),
        ("Mine!", pictures(), 400, "not a data set name"),
    ):
        answer = _send(client, data, name)
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
    hub.settings = Settings(data_dir=hub.folder, max_upload_bytes=100)
    small = signed_in(hub)
    for content in (bytes(101), iter([bytes(60), bytes(60)])):
        refused = small.post("/api/v1/datasets/mine:import", content=content)
        assert (refused.status_code, "100 bytes" in refused.json()["error"]["message"]) == (507, True)
    assert list((hub.folder / "uploads-http").iterdir()) == [] and hub.datasets.list() == ([], "")


def test_a_data_set_shows_its_boxes_its_counts_and_each_flawed_line(client: TestClient) -> None:
    assert _send(client, _with_boxes()).status_code == 201
    text = client.get("/datasets/mine").text
    assert "labels/3.txt:2:" in text, "the flawed line by its file and number"
    assert "fewer than 20 to train on" in text
    assert 'class="box c2" x="0.2500" y="0.0000" width="0.5000" height="0.5000"' in text
    assert text.count('<rect class="box') == 22
    picture = client.get(re.findall(r'<img src="(/datasets/[^"]+)"', text)[0])
    assert Image.open(io.BytesIO(picture.content)).size == (64, 48)
    assert "immutable" in picture.headers["cache-control"]
    only = client.get("/datasets/mine", params={"label": "nut", "start": 2}).text
    assert re.search(r"3 to \d of \d", only) and "Earlier" in only


def test_only_pictures_are_served_as_pictures(hub: Services, client: TestClient) -> None:
    _send(client, pictures(("a", "b")))
    other = hub.blobs.put(b"weights")
    assert client.get(f"/datasets/mine/pictures/{other}").status_code == 404
    for no_digest in ("sha256:..%2F..%2Fhub.key", "nothing"):
        assert client.get(f"/datasets/mine/pictures/{no_digest}").status_code in (400, 404)


def test_markup_in_the_names_of_files_stays_text(client: TestClient) -> None:
    packed = io.BytesIO(pictures(("a", "b")))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(HOSTILE_PATH, archive.read("a/0.png")[:-1] + b"x" * 20)
        archive.writestr(f"b/{HOSTILE_PATH[2:]}x", b"no picture")
    _send(client, packed.getvalue())
    text = client.get("/datasets/mine").text
    assert "<img src=x" not in text and "&lt;img src=x" in text


def test_answers_are_checked_beside_their_questions_and_nothing_is_made(hub: Services, client: TestClient) -> None:
    def check(**changed: str) -> str:
        answer = client.post("/new/projects", data={**ANSWERS, **changed, "check": "1"})
        assert answer.status_code == 200
        return str(answer.text)

    assert "First, pictures" in client.get("/new/projects").text
    _send(client, pictures(("a", "b")))
    for wanted, changed in (
        ("is not a project name", {"name": "No <b>"}),
        ("Choose a data set", {"dataset": "other"}),
        ("above 0", {"model_mb": "-3"}),
        ("above 0", {"model_mb": "nan"}),
        ("selector", {"selector": "type in (("}),
        ("half of that becomes the limit", {"priority": "SPEED", "fast": "none"}),
    ):
        text = check(**changed)
        said = re.findall(r'id="wrong-[^>]*>([^<]+)<', text)
        assert len(said) == 1 and wanted in said[0] and "No <b>" not in text, (wanted, said)
    name, spec = _shown(check())
    assert (name, spec.dataset, spec.limits[0].model_bytes) == ("mine", "mine", 2_000_000)
    assert hub.projects.list() == ([], "")


def test_answers_start_the_first_run_of_the_project_that_was_shown(hub: Services, client: TestClient) -> None:
    _send(client, pictures(("a", "b")))
    first_seen = client.get("/new/projects", params={"dataset": "mine"}).text
    assert _shown(first_seen)[1].dataset == "mine" and not re.search(r'id="wrong-[^>]*>[^<]', first_seen)
    shown = client.post("/new/projects", data={**ANSWERS, "check": "1"}).text
    started = client.post("/new/projects", data=ANSWERS, follow_redirects=False)
    assert (started.status_code, started.headers["location"]) == (303, "/runs/mine/1")
    assert _shown(shown) == ("mine", hub.projects.get("mine").spec)
    again = client.post("/new/projects", data=ANSWERS)
    assert (again.status_code, "There is a project mine already" in again.text) == (400, True)
    assert len(hub.runs.list()[0]) == 1
    for _ in range(2):
        button = client.post("/projects/mine/runs", data={"request_id": "one"}, follow_redirects=False)
        assert button.headers["location"] == "/runs/mine/2"


def test_a_command_lets_devices_in_and_shows_them(hub: Services, client: TestClient) -> None:
    asked = {"uses": "2", "lifetime_seconds": "3600", "labels": "site=busan", "request_id": "r1"}
    first, again = (client.post("/new/devices", data=asked).text for _ in range(2))
    command = re.search(r'<code id="command">curl -fsSL http://127.0.0.1/install.sh .* --token (\S+)</code>', first)
    assert command is not None and command[0] in again, "loading the answer again makes no second token"
    assert "Only this machine reaches the hub" in first and '<svg role="img"' in first
    (token,) = hub.devices.list_join_tokens()[0]
    address = re.search(r'data-live-from="([^"]+)" data-live-part="joined"', first)
    assert address is not None
    assert "Waiting for the device" in client.get(address[1]).text
    _join(hub, command[1], "pi-1")
    joined = client.get(address[1]).text
    assert "1 device joined" in joined and "1 use left" in joined and "/devices/pi-" in joined
    assert command[1] not in joined, "a secret is shown once"
    assert token.labels == {"site": "busan"}
    assert client.get("/new/devices/t-none").status_code == 404


def _join(hub: Services, token: str, name: str) -> None:
    inventory = Inventory(machine_id=name, board="raspberry-pi-5", architecture="aarch64")
    hub.devices.enrol(Enrolment(token, name, inventory, "0.1.0", False, {}, Key().request()))


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"uses": "0"}, "must be 1 to"), ({"uses": "x"}, "must be 1 to"), ({"labels": "site"}, "is not a label")],
)
def test_a_command_that_cannot_be_made_says_why(client: TestClient, changed: dict[str, str], words: str) -> None:
    answer = client.post("/new/devices", data={"uses": "1", "labels": "", **changed})
    assert (answer.status_code, words in answer.text) == (400, True)
