"""Both clients against a hub: rows of all pages, what is returned, files, and what errors say."""

from __future__ import annotations

import asyncio
import inspect
import io
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from milonga import client
from milonga.client import AsyncClient, Client
from milonga.client.async_services import AsyncServices
from milonga.client.services import Services as SyncServices
from milonga.client.trust import NoAddress
from milonga.v1 import accounts_pb2, labelling_pb2, projects_pb2

from tests.devices.world import run
from tests.web.filled import BOARDS, PROJECT, Services, pictures


def test_rows_of_all_pages_come_one_after_the_other(hub: Client) -> None:
    assert [device.name for device in hub.devices.list_devices(page_size=1)] == sorted(BOARDS)


def test_rows_come_over_asyncio_too(address: str) -> None:
    async def story() -> list[str]:
        async with AsyncClient(address) as hub:
            return [device.name async for device in hub.devices.list_devices(page_size=3)]

    assert run(story()) == sorted(BOARDS)


def test_a_list_that_comes_whole_is_given_row_by_row(hub: Client) -> None:
    assert all(rule.built_in for rule in hub.alerts.list_alert_rules())


def test_a_call_returns_the_thing_and_not_what_it_was_wrapped_in(hub: Client) -> None:
    assert hub.devices.get_device("pi5-1").labels["role"] == "canary"


def test_a_call_with_several_answers_returns_all_of_them(hub: Client) -> None:
    made = hub.devices.create_join_token(labels={"site": "seoul"}, uses=2)
    assert made.join_token.uses_left == 2 and made.secret.startswith("mt_")


def test_a_call_without_an_answer_returns_nothing(hub: Client) -> None:
    label = "for one test"
    made = hub.accounts.create_api_key(label, role=accounts_pb2.ROLE_VIEWER)
    hub.accounts.delete_api_key(made.api_key.id)
    assert label not in [key.label for key in hub.accounts.list_api_keys()]


def test_the_same_request_id_makes_the_same_thing_and_none_a_new_one(hub: Client) -> None:
    first, same, other = (
        hub.devices.create_join_token(request_id=id).join_token.id for id in ("one-request", "one-request", "")
    )
    assert first == same != other


def test_times_say_their_zone(hub: Client) -> None:
    assert list(hub.telemetry.query_telemetry(since=datetime(2099, 1, 1, tzinfo=UTC))) == []
    with pytest.raises(ValueError, match="time zone"):
        hub.telemetry.query_telemetry(since=datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("kind", ["path", "file", "bytes", "chunks"])
def test_a_file_is_sent_from_whatever_holds_it(hub: Client, tmp_path: Path, kind: str) -> None:
    archive = pictures(seed=7)
    path = tmp_path / "pictures.zip"
    path.write_bytes(archive)
    content = {"path": path, "file": io.BytesIO(archive), "bytes": archive, "chunks": [archive[:99], archive[99:]]}
    version = hub.datasets.import_dataset(f"sent-as-{kind}", content[kind])  # type: ignore[arg-type]
    assert version.number == 1 and version.train_count + version.validation_count == 18


def test_a_file_is_sent_over_asyncio(address: str) -> None:
    async def story() -> int:
        async with AsyncClient(address) as hub:
            return (await hub.datasets.import_dataset("sent-async", pictures(seed=8))).number

    assert run(story()) == 1


def test_a_file_comes_in_chunks(hub: Client) -> None:
    (build, *_) = hub.builds.list_builds(f"models/{PROJECT}/versions/1")
    assert b"".join(hub.builds.download_build(build.name)).startswith(b"PK")


def test_what_is_not_there_is_not_found_with_a_reason_for_programs(hub: Client) -> None:
    with pytest.raises(client.NotFound, match="no device 'nobody'") as raised:
        hub.devices.get_device("nobody")
    assert raised.value.reason == "NOT_FOUND"
    assert raised.value.metadata == {"resource": "nobody"}


def test_what_is_not_there_is_not_found_over_asyncio(address: str) -> None:
    async def story() -> None:
        async with AsyncClient(address) as hub:
            with pytest.raises(client.NotFound, match="no device 'nobody'"):
                await hub.devices.get_device("nobody")
            with pytest.raises(client.NotFound, match="no run"):
                async for _ in hub.runs.watch_run("projects/digits/runs/99"):
                    pass

    run(story())


def test_what_cannot_be_used_is_named_by_its_fields(hub: Client) -> None:
    spec = projects_pb2.ProjectSpec(dataset=PROJECT, limits=[projects_pb2.Limits(selector="type=pi5", latency_ms=-1.0)])
    with pytest.raises(client.InvalidInput) as raised:
        hub.projects.apply_project("digits", spec=spec)
    assert raised.value.reason == "INVALID_INPUT"
    assert [each.field for each in raised.value.violations] == ["spec.limits[0].latency_ms"]


def test_who_guesses_passwords_is_told_how_long_to_wait(hub: Client) -> None:
    for _ in range(20):
        with pytest.raises(client.CallFailed) as raised:
            hub.accounts.sign_in("somebody", password="wrong wrong wrong", label="x")
    assert isinstance(raised.value, client.ResourceExhausted)
    assert raised.value.reason == "TOO_OFTEN"
    assert (raised.value.retry_after_seconds or 0) >= 1


def test_a_stranger_is_told_where_to_sign_in(address: str) -> None:
    with Client(address, key="") as stranger:
        with pytest.raises(client.Unauthenticated, match=address):
            list(stranger.devices.list_devices())


def test_a_hub_with_another_fingerprint_is_not_trusted(address: str) -> None:
    with pytest.raises(client.NotTrusted, match="another hub"):
        Client(address, fingerprint="sha256:" + "0" * 64)


def test_a_hub_is_trusted_by_its_fingerprint(address: str, services: Services) -> None:
    with Client(address, fingerprint=services.devices.authority.fingerprint) as hub:
        assert hub.accounts.get_caller().role == accounts_pb2.ROLE_ADMIN


def test_a_hub_elsewhere_for_which_nobody_has_vouched_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(client.NotTrusted, match=r"milonga trust 192\.0\.2\.1:8443"):
        Client("192.0.2.1:8443")


def test_an_address_without_a_port_is_none() -> None:
    with pytest.raises(NoAddress, match="HOST:PORT"):
        Client("localhost")


def test_the_environment_names_hub_and_key(address: str, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(address) as hub:
        secret = hub.accounts.create_api_key("from the environment", role=accounts_pb2.ROLE_VIEWER).secret
    monkeypatch.setenv("MILONGA_HUB", address)
    monkeypatch.setenv("MILONGA_API_KEY", secret)
    monkeypatch.setenv("MILONGA_HUB_FINGERPRINT", services.devices.authority.fingerprint)
    with Client() as hub:
        assert hub.accounts.get_caller().role == accounts_pb2.ROLE_VIEWER
        with pytest.raises(client.PermissionDenied) as raised:
            hub.devices.delete_device("pi5-1")
    assert raised.value.reason == "PERMISSION_DENIED"


def test_a_hub_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Nobody listens, and nobody else can.
        with pytest.raises(client.Unreachable, match="milonga up"):
            Client(f"127.0.0.1:{taken.getsockname()[1]}")


def test_a_client_that_is_not_open_says_how_to_open_it() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(_ask_unopened())


async def _ask_unopened() -> None:
    await AsyncClient("127.0.0.1:1").accounts.get_caller()


def test_samples_that_wait_are_listed_in_the_order_to_label_them(hub: Client) -> None:
    found = list(hub.labelling.list_samples(PROJECT, state=labelling_pb2.SAMPLE_STATE_WAITING))
    assert found and all(each.state == labelling_pb2.SAMPLE_STATE_WAITING for each in found)


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    sync, asynchronous = vars(SyncServices(None)), vars(AsyncServices(None))  # type: ignore[arg-type]
    assert sync.keys() == asynchronous.keys()
    for name in sync:
        methods = {
            each: inspect.signature(getattr(sync[name], each)).parameters
            for each in dir(sync[name])
            if not each.startswith("_")
        }
        assert methods
        for method, parameters in methods.items():
            assert inspect.signature(getattr(asynchronous[name], method)).parameters == parameters, method
