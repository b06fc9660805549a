"""How an agent joins: it believes one hub, keeps its key, and never says more than it must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from milonga.v1 import devices_pb2
from milonga_agent.enrolment import Joining, enrol, identity
from milonga_agent.errors import AgentError, HubUnreachable, Refused, Waiting
from milonga_agent.state import Store

from tests.devices.world import World, hub, run


async def _inventory() -> devices_pb2.Inventory:
    return devices_pb2.Inventory()


def _joining(world: World, **options: Any) -> Joining:
    return Joining(**{"hub": f"127.0.0.1:{world.port}", "name": "pi-1", "inventory": _inventory, **options})


def test_an_agent_with_a_token_has_a_certificate_and_enrols_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            store, joined = Store(tmp_path / "agent"), []
            joining = _joining(world, join_token=world.token(), joined=lambda: joined.append(1))
            found = await identity(joining, store)
            assert (found.device, found.device_port, found.mqtt_port) == ("pi-1", world.device_port, 8883)
            assert store.authority().encode() == world.tls.authority.certificate
            assert (store.folder / "key.pem").stat().st_mode & 0o777 == 0o600
            assert await identity(joining, store) == found == store.identity() and joined == [1]

    run(story())


def test_an_agent_says_nothing_to_a_hub_with_another_authority(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            token = world.token().partition(".")[0]
            for options in ({"join_token": f"{token}.{'0' * 64}"}, {"fingerprint": "sha256:" + "0" * 64}):
                with pytest.raises(Refused, match="another hub, or somebody between"):
                    await identity(_joining(world, **options), Store(tmp_path / "agent"))
            assert world.devices.list_join_tokens()[0][0].uses_left == 1

    run(story())


@pytest.mark.parametrize(
    ("options", "words"), [({}, "--fingerprint"), ({"join_token": "mt_cut-off"}, "copy the token whole")]
)
def test_an_agent_that_knows_no_fingerprint_joins_nobody(tmp_path: Path, options: dict[str, str], words: str) -> None:
    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            with pytest.raises(Refused, match=words):
                await identity(_joining(world, **options), Store(tmp_path / "agent"))

    run(story())


def test_trust_on_first_use_is_for_the_first_use_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "agent")

    async def first() -> None:
        async with hub(tmp_path / "hub") as world:
            with pytest.raises(Waiting, match="milonga devices approve pi-1"):
                await identity(_joining(world, trust_first=True), store)

    async def second() -> None:
        async with hub(tmp_path / "other hub") as world:
            with pytest.raises(HubUnreachable):
                await identity(_joining(world, trust_first=True), store)

    run(first())
    run(second())


def test_what_an_operator_approved_is_asked_for_again_in_the_same_words(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            store = Store(tmp_path / "agent")
            pin = world.tls.authority.fingerprint
            with pytest.raises(Waiting):
                await identity(_joining(world, fingerprint=pin, labels={"site": "busan"}), store)
            world.devices.approve("pi-1")
            # As the service starts it, after the installer has asked.
            assert (await identity(_joining(world, name=""), store)).device == "pi-1"
            assert world.devices.get("pi-1").labels == {"site": "busan"}

    run(story())


def test_staying_with_a_hub_is_not_joining_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            store, joined = Store(tmp_path / "agent"), []
            joining = _joining(world, join_token=world.token(), joined=lambda: joined.append(1))
            await identity(joining, store)
            before = store.credentials()
            await enrol(joining, store, again=True)
            after = store.credentials()
            assert joined == [1]
            assert (after.key, after.authority) == (before.key, before.authority)
            assert after.certificate != before.certificate

    run(story())


def test_an_agent_of_the_time_of_secrets_is_told_to_join_again(tmp_path: Path) -> None:
    old = {"device": "pi-1", "secret": "s", "device_type": "t", "hub": "h:1", "mqtt_host": "h", "mqtt_port": 1}
    (tmp_path / "identity.json").write_text(json.dumps({**old, "format": 1}))
    with pytest.raises(AgentError, match="milonga-agent enrol --hub HOST:PORT --join-token TOKEN"):
        Store(tmp_path).identity()
    assert Store(tmp_path).identity(may_be_old=True) is None


@pytest.mark.parametrize("format_", [1, 2])
def test_an_agent_that_joins_again_keeps_its_name(tmp_path: Path, format_: int) -> None:
    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            store = Store(tmp_path / "agent")
            old = {"device": "door", "device_type": "t", "hub": "h:1", "mqtt_host": "h", "mqtt_port": 1}
            (store.folder / "identity.json").write_text(json.dumps({**old, "format": format_}))
            found = await identity(_joining(world, name="", join_token=world.token()), store)
            assert found.device == "door"

    run(story())


@pytest.mark.parametrize("damage", [b"", b"junk"])
def test_a_damaged_certificate_is_named(tmp_path: Path, damage: bytes) -> None:
    """gRPC would end the process, without a word, over and over."""
    for name in ("authority.pem", "key.pem", "certificate.pem"):
        (tmp_path / name).write_bytes(b"-----BEGIN ")
    (tmp_path / "certificate.pem").write_bytes(damage)
    with pytest.raises(AgentError, match=r"certificate\.pem is damaged"):
        Store(tmp_path).credentials()
