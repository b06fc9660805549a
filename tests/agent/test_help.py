"""Help from afar: what a device shows of itself, what never leaves it, and what it does once however often it is told."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from milonga_agent import cli, diagnostics, doctor
from milonga_agent.care import StartAnew
from milonga_agent.daemon import Agent, Options
from milonga_agent.journal import Journal, paths
from milonga_agent.keys import make, new_key
from milonga_agent.secrecy import redacted
from milonga_agent.state import CareDone, Identity, Store
from milonga_hub.devices.models import Device, File
from milonga_hub.errors import FailedPrecondition

from tests.agent.bundles import example
from tests.devices.world import World, hub, run

TOKEN = "s3cr3t-of-a-token" + "." + "ab" * 32


def _log(journal: Journal, text: str) -> None:
    journal.emit(logging.LogRecord("n", logging.INFO, "p", 1, text, None, None))


def test_a_journal_keeps_the_newest_and_goes_on_from_a_cursor(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1", file_bytes=1000)
    for number in range(100):
        _log(journal, f"line {number:03}")
    text, cursor = journal.read("", 10_000)
    assert sum(path.stat().st_size for path in paths(tmp_path)) <= 2000
    assert text.endswith(b"line 099\n") and b"line 000" not in text
    newest, _ = journal.read("", 100)
    assert newest in text and newest.count(b"\n") == 2
    assert journal.read(cursor, 10_000)[0] == b""
    _log(journal, "one more")
    assert journal.read(cursor, 10_000)[0].endswith(b"one more\n")


def test_a_journal_outlives_its_agent_and_a_cursor_of_before_shows_what_came_since(tmp_path: Path) -> None:
    before = Journal(tmp_path, "boot-1")
    _log(before, "the end of it")
    _, cursor = before.read("", 10_000)
    after = Journal(tmp_path, "boot-2")
    assert b"the end of it" in after.read("", 10_000)[0]
    _log(after, "started anew")
    assert after.read(cursor, 10_000)[0].count(b"\n") == 1


def test_a_disk_that_cannot_be_written_costs_lines_only(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")
    journal = Journal(tmp_path, "boot-1")
    _log(journal, "lost")
    assert journal.read("", 100)[0] == b""


def test_keys_tokens_and_what_is_named_are_left_out_of_any_text() -> None:
    key = new_key().decode().strip()
    text = f"before {key} between {TOKEN} and hunter2 after; cut off: {key[:90]}"
    shown = redacted(text, ["hunter2"])
    assert shown.startswith("before [left out] between [left out] and [left out] after")
    assert not any(line in shown for line in key.splitlines())
    cut_off = key.partition("\n")[2]
    assert not any(line in redacted(cut_off) for line in cut_off.splitlines()[:-2])


def test_diagnostics_hold_what_helps_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    key = (tmp_path / "key.pem").read_text()
    store = Store(tmp_path)
    store.keep_identity(Identity("pi-1", "pi5", "127.0.0.1:1", 1, "127.0.0.1", 1))
    store.keep_certificate(key)
    store.keep_authority(key)
    journal = Journal(tmp_path, "boot-1")
    _log(journal, f"joining with {TOKEN}, and somebody logged the key: {key}")
    _log(journal, "and the word hunter2")
    monkeypatch.setenv("MILONGA_JOIN_TOKEN", "token-of-the-environment")
    _log(journal, "token-of-the-environment")
    made = diagnostics.bundle(tmp_path, ["hunter2"])
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        texts = {Path(each.name).name: archive.extractfile(each).read().decode() for each in archive.getmembers()}  # type: ignore[union-attr]
    assert {"agent.log", "checks.json", "files.txt", "identity.json", "inventory.json", "versions.txt"} <= set(texts)
    assert '"pi-1"' in texts["identity.json"] and "milonga-agent==" in texts["versions.txt"]
    assert "key.pem" in texts["files.txt"] and "joining with" in texts["agent.log"]
    everything = "\n".join(texts.values())
    secrets = [*key.splitlines()[1:-1], TOKEN.partition(".")[0], "hunter2", "token-of-the-environment", "PRIVATE KEY"]
    assert not [secret for secret in secrets if secret in everything]


def test_a_doctor_says_what_to_do_about_a_device_that_has_not_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--data-dir", str(tmp_path / "none"), "--hub", "nobody.invalid:8443", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in said["checks"]}
    assert said["result"] == checks["joined"]["result"] == checks["name"]["result"] == "failed"
    assert "milonga tokens create" in checks["joined"]["next_step"]
    assert all(check["next_step"] for check in said["checks"] if check["result"] != "ok")
    assert cli.main(["doctor", "--data-dir", str(tmp_path / "none")]) == 1
    assert "-> join a hub" in capsys.readouterr().out


def test_a_doctor_finds_a_hub_and_knows_another_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path / "hub") as world, hub(tmp_path / "other") as other:
            await _agent(world, tmp_path / "agent").enrol()
            checks = await asyncio.to_thread(doctor.examine, tmp_path / "agent")
            results = {check.name: check.result for check in checks}
            well = ("joined", "name", "hub", "hub for devices", "identity of the hub", "clock", "engines")
            assert {results[name] for name in well} == {"ok"}
            assert (results["telemetry"], results["agent"]) == ("failed", "ok")
            strange = await asyncio.to_thread(doctor.examine, tmp_path / "agent", f"127.0.0.1:{other.port}")
            found = next(check for check in strange if check.name == "identity of the hub")
            assert found.result == "failed" and "another hub" in found.next_step

    run(story())


def _agent(world: World, folder: Path) -> Agent:
    token = "" if (folder / "identity.json").exists() else world.token()
    options = Options(hub=f"127.0.0.1:{world.port}", data_dir=folder, name="pi-1", join_token=token)
    return Agent(replace(options, engines=("onnxruntime",)))


async def _stopped(agent: Agent, task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    os.close(agent._lock)


def test_a_device_is_looked_into_and_does_once_what_operators_want(tmp_path: Path) -> None:
    made = example(tmp_path / "bundle")

    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            devices = world.devices
            agent = _agent(world, tmp_path / "agent")
            task = asyncio.ensure_future(agent.run())
            await world.until(lambda: any(device.state.value == "ONLINE" for device in devices.matching("")))
            _log(agent.journal, f"hello, {TOKEN}")
            answer = await devices.log("pi-1")
            assert b"hello, [left out]" in answer.content
            assert (await devices.log("pi-1", answer.cursor)).content == b""
            with tarfile.open(fileobj=io.BytesIO(await devices.diagnose("pi-1"))) as archive:
                assert "milonga-diagnostics/checks.json" in archive.getnames()

            for content in made.blobs().values():
                world.blobs.put(content)
            manifest = made.bundle.folder / "manifest.json"
            world.signing.sign("digits", {made.bundle.digest: manifest.stat().st_size})
            files = [File(path=each.path, digest=each.digest, size_bytes=each.size_bytes) for each in made.bundle.files]
            devices.assign("pi-1", made.bundle.digest, files, "models/digits/versions/1", "digits", "onnxruntime/fp32")
            await world.until_device("pi-1", lambda device: device.active_bundle == made.bundle.digest)
            devices.profile("pi-1")
            await world.until_device("pi-1", lambda device: device.profiles == 1)
            (measured,) = devices.measurements()[0]
            assert (measured.purpose, measured.engine, measured.error) == ("profile", "onnxruntime", "")
            assert measured.median_ms is not None and measured.median_ms > 0

            devices.restart("pi-1")
            devices.restart("pi-1")
            with pytest.raises(StartAnew):
                await task
            os.close(agent._lock)
            assert Store(tmp_path / "agent").care() == CareDone(2, 1)
            with pytest.raises(FailedPrecondition, match="is off line"):
                await world.until(lambda: devices.get("pi-1").state.value == "OFFLINE")
                await devices.log("pi-1")

            def is_back(device: Device) -> bool:
                return device.restarts == 2 and device.active_bundle == made.bundle.digest

            again = _agent(world, tmp_path / "agent")
            task = asyncio.ensure_future(again.run())
            await world.until_device("pi-1", is_back)
            assert not task.done() and devices.get("pi-1").wanted_restarts == 2
            await _stopped(again, task)

    run(story())
