"""Pages of a fleet that no page could show whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from milonga_agent.comparing import Comparison
from milonga_hub.devices.models import Device, DeviceState
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDevice, RolloutDeviceState, Wave
from sqlalchemy.orm.exc import DetachedInstanceError

from tests.web.filled import Services
from tests.web.people import signed_in

COUNT = 1203


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Every tenth of the devices is offline, and every third in Busan."""
    hub = Services(Path(tmp_path_factory.mktemp("large")))
    devices = [
        Device(
            name=f"pi-{number:04}",
            device_type="raspberry-pi-5",
            state=DeviceState.OFFLINE if number % 10 == 0 else DeviceState.ONLINE,
            labels={"site": "busan" if number % 3 == 0 else "seoul"},
        ).model_dump()
        for number in range(COUNT)
    ]
    with hub.database.session() as session:
        session.connection().execute(sa.insert(Device), devices)
    with signed_in(hub) as client:
        yield client


def _names(text: str) -> list[str]:
    return re.findall(r'href="/devices/(pi-\d{4})"', text)


def test_the_overview_counts_all_and_draws_those_that_are_worst_off(client: TestClient) -> None:
    text = client.get("/").text
    assert "1082<small> of 1203</small>" in text
    assert "703 more" in text
    drawn = re.findall(r"<title>(pi-\d{4}): (\w+)", text)
    assert len(drawn) == 500
    assert {name for name, words in drawn if words == "offline"} == {f"pi-{n:04}" for n in range(0, COUNT, 10)}


def test_the_list_of_devices_goes_on_page_by_page(client: TestClient) -> None:
    seen, address = [], "/devices"
    while address:
        text = client.get(address).text
        assert f"of {COUNT} devices" in text
        seen += _names(text)
        following = re.search(r'href="(/devices\?[^"]*)" rel="next"', text)
        address = following.group(1).replace("&amp;", "&") if following else ""
    assert seen == [f"pi-{number:04}" for number in range(COUNT)]


def test_a_selector_holds_over_the_pages(client: TestClient) -> None:
    first = client.get("/devices", params={"selector": "site=busan"}).text
    assert "100 of 401 devices" in first
    following = re.search(r'href="(/devices\?[^"]*)" rel="next"', first)
    assert following is not None
    names = _names(client.get(following.group(1).replace("&amp;", "&")).text)
    assert len(names) == 100 and all(int(name[3:]) % 3 == 0 for name in names)


def test_a_foreign_page_token_is_told_of(client: TestClient) -> None:
    assert "page_token is not one" in client.get("/devices", params={"page_token": "%%%"}).text


def _large(hub: Services, devices: list[RolloutDevice]) -> None:
    """Let the hub have a rollout of two waves, of which the devices of the first are these."""
    small = [RolloutDevice(device=f"jetson-{n}", wave=1, state=RolloutDeviceState.WAITING) for n in range(3)]
    left_out = [RolloutDevice(device=f"none-{n}", wave=LEFT_OUT, message="no build") for n in range(21)]
    waves = [Wave(index=0, device_count=len(devices)), Wave(index=1, device_count=len(small))]
    with hub.database.session() as session:
        session.add(
            Rollout(
                id="agents.7",
                project="",
                model_version="",
                agent_version="0.1.0+7",
                devices=[*devices, *small, *left_out],
                waves=waves,
            )
        )


def _table(text: str, wave: str) -> str:
    """Return the part of a rollout's page that tells of a wave."""
    return text.partition(f'aria-labelledby="{wave}"')[2].partition("</section>")[0]


def test_of_a_large_wave_those_are_shown_that_need_somebody_first_and_the_others_on_demand(tmp_path: Path) -> None:
    states = [RolloutDeviceState.SUCCEEDED] * 100 + [RolloutDeviceState.WAITING] * 48 + [RolloutDeviceState.FAILED] * 2
    devices = [RolloutDevice(device=f"pi-{n:04}", wave=0, state=state) for n, state in enumerate(states)]
    devices[7] = devices[7].model_copy(update={"late": True})
    hub = Services(tmp_path)
    _large(hub, devices)
    with signed_in(hub) as client:
        text = client.get("/rollouts/agents.7").text
        seen = re.findall(r"pi-\d{4}(?=</a>)", text)
        assert seen[:4] == ["pi-0007", "pi-0148", "pi-0149", "pi-0100"] and len(seen) == 20
        assert "1 to 20 of 150 devices" in _table(text, "wave-0")
        assert text.count("jetson-") == 6 and "of 3 devices" not in text, "as it is where there is room for all"
        address = "/rollouts/agents.7"
        while address:
            text = client.get(address).text
            following = re.search(r'href="([^"]*)" rel="next"', _table(text, "wave-0"))
            address = following.group(1).replace("&amp;", "&") if following else ""
            seen += re.findall(r"pi-\d{4}(?=</a>)", text) if following or address == "" else []
        assert set(seen) == {device.device for device in devices}
        assert "121 to 150 of 150 devices" in text and 'href="/rollouts/agents.7#wave-0"' in text
        left_out = client.get("/rollouts/agents.7", params={"wave": 0, "after": 20}).text
        assert re.findall(r"none-\d+", left_out) == ["none-20"]
        assert "1 to 20 of 150" in client.get("/rollouts/agents.7", params={"wave": 1, "after": 9999}).text


def test_of_many_shadows_their_sum_is_told_and_those_that_differ_most_are_shown_first(tmp_path: Path) -> None:
    devices = [
        RolloutDevice(
            device=f"pi-{n:04}",
            wave=0,
            state=RolloutDeviceState.SUCCEEDED,
            shadow=str(Comparison(requests=100, answers=1000, agreeing=1000 - n % 25)),
        )
        for n in range(300)
    ]
    hub = Services(tmp_path)
    _large(hub, devices)
    with signed_in(hub) as client:
        text = _table(client.get("/rollouts/agents.7").text, "wave-0")
    assert "As shadows, on 300 devices: 30 k requests compared, 1.2% of the answers differ" in text
    assert 'Most do on <a href="/devices/pi-0024">pi-0024</a>: 2.4%.' in text
    assert re.findall(r"pi-\d{4}(?=</a> )", text)[:13] == [*(f"pi-{n:04}" for n in range(24, 300, 25)), "pi-0023"]


def test_a_fleets_rollouts_are_listed_without_the_devices_that_they_went_to(tmp_path: Path) -> None:
    hub = Services(tmp_path)
    with hub.database.session() as session:
        devices = [RolloutDevice(device="pi-1", wave=0)]
        for number, version in enumerate((1, 1, 2)):
            session.add(
                Rollout(
                    id=f"parts-{number}",
                    project="parts",
                    model_version=f"models/parts/versions/{version}",
                    devices=devices,
                )
            )
    listed, _ = hub.rollouts.headlines("parts", "models/parts/versions/1")
    assert [each.id for each in listed] == ["parts-1", "parts-0"]
    with pytest.raises(DetachedInstanceError):
        _ = listed[0].devices
    assert hub.rollouts.get("parts-0").devices == devices
