"""Pages of a fleet that no page could show whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from milonga_hub.devices.models import Device, DeviceState
from milonga_hub.rollouts.models import Rollout, RolloutDevice, RolloutDeviceState
from milonga_hub.web.pages.rollouts import _shown
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


def test_of_a_large_wave_those_are_shown_that_need_somebody_first() -> None:
    states = [RolloutDeviceState.SUCCEEDED] * 500 + [RolloutDeviceState.WAITING] * 198 + [RolloutDeviceState.FAILED] * 2
    devices = [RolloutDevice(device=f"pi-{n}", wave=0, state=state) for n, state in enumerate(states)]
    devices[7] = devices[7].model_copy(update={"late": True})
    small = [RolloutDevice(device=f"jetson-{n}", wave=1, state=states[-1 - n]) for n in range(3)]
    shown = _shown([*devices, *small])
    assert [device.device for device in shown[0][:4]] == ["pi-7", "pi-698", "pi-699", "pi-500"]
    assert len(shown[0]) == 200 and {device.state for device in shown[0][3:]} == {RolloutDeviceState.WAITING}
    assert shown[1] == small, "as it is where there is room for all"


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
