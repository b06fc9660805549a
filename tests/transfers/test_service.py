"""What the hub offers of a file: chunks, and a delta where the device holds something like it and it pays."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from milonga import deltas
from milonga_agent.errors import Refused
from milonga_agent.patching import FORMAT, formats
from milonga_hub.transfers import rules
from milonga_hub.transfers.rules import Listed
from milonga_hub.transfers.service import TransferService

from tests.devices.world import run
from tests.transfers.lines import Line, line, noise
from tests.transfers.networks import retrained, weights, write


def _nothing(fraction: float) -> None:
    """What is told of progress is not looked at here."""


def test_agent_and_hub_speak_of_one_format() -> None:
    assert formats() == (FORMAT,) == (deltas.FORMAT,)


def test_a_delta_that_saves_less_than_a_tenth_does_not_pay() -> None:
    assert rules.pays(900, 1000) and not rules.pays(901, 1000)
    assert not rules.may_pay(1000) and not rules.may_pay(1 << 40)


def test_a_delta_begins_from_what_is_likely_alike() -> None:
    size = 1 << 20
    held = [Listed(path, path, size) for path in ("probe.npy", "other.onnx", "model.bin", "model.onnx")]
    assert rules.bases(Listed("model.onnx", "new", size), held) == ["model.onnx", "other.onnx"]
    assert rules.bases(Listed("model.tflite", "new", size), held)[0] == "other.onnx"
    assert rules.bases(Listed("model.onnx", "model.onnx", size), held[3:]) == []


async def _fetch_first(here: Line, folder: Path) -> str:
    """Have the device serve a first version, and return its bundle."""
    wish = here.assign({"model.onnx": write(folder / "one.onnx", weights()).read_bytes()})
    await here.depot.download(wish.files, here.courier, _nothing)
    return wish.bundle


def test_a_retrained_version_comes_as_a_delta(tmp_path: Path) -> None:
    async def story() -> None:
        async with line(tmp_path) as here:
            held = await _fetch_first(here, tmp_path)
            content = write(tmp_path / "two.onnx", retrained(weights())).read_bytes()
            wish = here.assign({"model.onnx": content}, version=2)
            moved = await here.depot.download(wish.files, here.courier, _nothing, [held])
            here.depot.verify(wish)
            assert moved.deltas == 1 and moved.moved_bytes < 0.65 * moved.whole_bytes
            assert str(moved).endswith("1 as a delta")
            # Nothing is left over, and a hub that starts again has it still.
            assert {path.suffix for path in (here.folder / "cache").iterdir()} == {""}
            again = TransferService(here.world.blobs, tmp_path / "hub" / "deltas", here.world.settings, 0.0)
            offer = await again.offer(Listed("model.onnx", wish.files[0].digest, 0), [held], [FORMAT])
            assert offer.delta is not None

    run(story())


def test_the_whole_file_comes_where_the_base_is_not_what_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with line(tmp_path) as here:
            held = await _fetch_first(here, tmp_path)
            first = next((here.folder / "cache").glob("*"), None)
            for path in (here.folder / "cache").iterdir():
                path.write_bytes(path.read_bytes()[:-1] + b"!")
            assert first is not None
            wish = here.assign({"model.onnx": write(tmp_path / "two.onnx", retrained(weights())).read_bytes()}, 2)
            moved = await here.depot.download(wish.files, here.courier, _nothing, [held])
            here.depot.verify(wish)
            assert moved.deltas == 0 and moved.moved_bytes > moved.whole_bytes
            assert "model.onnx comes whole: the delta could not be applied" in caplog.text

    run(story())


def test_the_whole_file_is_sent_where_a_delta_would_not_pay(tmp_path: Path) -> None:
    async def story() -> None:
        async with line(tmp_path) as here:
            held = await _fetch_first(here, tmp_path)
            wish = here.assign({"model.onnx": noise(100_000)}, version=2)
            moved = await here.depot.download(wish.files, here.courier, _nothing, [held])
            assert moved.moved_bytes == moved.whole_bytes

    run(story())


def test_who_cannot_wait_for_a_delta_takes_the_whole_file_and_the_log_tells_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with line(tmp_path) as here:
            held = await _fetch_first(here, tmp_path)
            wish = here.assign({"model.onnx": write(tmp_path / "two.onnx", retrained(weights())).read_bytes()}, 2)
            wanted, folder = Listed("model.onnx", wish.files[0].digest, 0), tmp_path / "slow"
            hurried = TransferService(here.world.blobs, folder, here.world.settings, delta_seconds=0.0)
            for _ in range(2):
                assert (await hurried.offer(wanted, [held], [FORMAT])).delta is None
            while not [*folder.glob("*.json")]:
                await asyncio.sleep(0.05)  # The job is a process of its own.
            assert (await hurried.offer(wanted, [held], [FORMAT])).delta is not None

    caplog.set_level("INFO", "milonga_hub.transfers.deltas")
    run(story())
    assert "took so long that 2 took the whole file meanwhile" in caplog.text


def test_a_delta_never_begins_from_a_bundle_of_another_project(tmp_path: Path) -> None:
    async def story() -> None:
        async with line(tmp_path) as here:
            held = await _fetch_first(here, tmp_path)
            content = write(tmp_path / "two.onnx", retrained(weights())).read_bytes()
            wish = here.assign({"model.onnx": content}, version=2, project="dogs")
            assert (await here.courier.offer(wish.files[0].digest, [held])).delta is None

    run(story())


def test_a_delta_is_for_devices_that_may_have_what_it_makes(tmp_path: Path) -> None:
    async def story() -> None:
        async with line(tmp_path) as here:
            held = await _fetch_first(here, tmp_path)
            content = write(tmp_path / "two.onnx", retrained(weights())).read_bytes()
            wish = here.assign({"model.onnx": content}, version=2)
            delta = (await here.courier.offer(wish.files[0].digest, [held])).delta
            assert delta is not None
            here.assign({"model.onnx": noise(10)}, version=3)
            with pytest.raises(Refused):
                async for _ in here.courier.fetch(delta.digest, 0):
                    pass
            with pytest.raises(Refused):
                await here.courier.offer(wish.files[0].digest, [])

    run(story())


def test_pieces_grow_to_what_the_device_asks_for_and_stay_within_the_limits(tmp_path: Path) -> None:
    async def sizes(here: Line, **limits: float) -> list[int]:
        settings = here.world.settings.model_copy(update=limits)
        service = TransferService(here.world.blobs, tmp_path / "deltas", settings)
        digest = here.world.blobs.put(noise(2_500_000))
        return [len(piece) async for piece in service.pieces("pi-1", digest, 0, piece_bytes=1 << 20)]

    async def story() -> None:
        async with line(tmp_path) as here:
            found = await sizes(here)
            assert found[:3] == [262_144, 524_288, 1_048_576] and sum(found) == 2_500_000
            # A quarter of a second for each piece, at 20 Mbit/s.
            assert max(await sizes(here, max_download_kbps=20_000)) == 625_000
            assert max(await sizes(here, max_device_download_kbps=20_000)) == 625_000

    run(story())


def test_deltas_that_were_used_longest_ago_make_room(tmp_path: Path) -> None:
    async def story() -> None:
        async with line(tmp_path) as here:
            settings = here.world.settings.model_copy(update={"delta_cache_bytes": 100_000})
            service = TransferService(here.world.blobs, tmp_path / "small", settings, delta_seconds=50.0)
            held = await _fetch_first(here, tmp_path)
            for number in (2, 3):
                content = write(tmp_path / f"{number}.onnx", retrained(weights(), seed=number)).read_bytes()
                digest = here.world.blobs.put(content)
                offer = await service.offer(Listed("model.onnx", digest, 0), [held], [FORMAT])
                assert offer.delta is not None
            kept = sum(path.stat().st_size for path in (tmp_path / "small").glob("*.delta"))
            assert 0 < kept <= 100_000

    run(story())
