"""Files arrive whole over lines that break, corrupt, delay and fall silent; what came once does not come again."""

from __future__ import annotations

from pathlib import Path

import pytest
from milonga_agent.errors import AgentError, HubUnreachable
from milonga_agent.hub import piece_bytes_after
from milonga_agent.steps import Depot
from milonga_hub.transfers.chunks import CHUNK_BYTES

from tests.devices.world import run
from tests.transfers.lines import line, noise
from tests.transports.fault_proxy import NO_FAULT, Fault

_MB = 1 << 20


def _nothing(fraction: float) -> None:
    """What is told of progress is not looked at here."""


def test_a_line_that_is_cut_every_megabyte_brings_each_byte_once(tmp_path: Path) -> None:
    content = noise(8 * _MB)

    async def story() -> None:
        async with line(tmp_path, lambda _: Fault(cut_after_bytes=_MB)) as here:
            wish = here.assign({"model.onnx": content})
            moved = await here.depot.download(wish.files, here.courier, _nothing)
            assert here.depot.blob(wish.files[0].digest).read_bytes() == content
            assert here.proxy.connections > 8
            assert moved.moved_bytes <= 1.01 * moved.whole_bytes
            # With all that TLS and HTTP/2 add, and what was under way: the first cut finds large pieces and may take them all.
            assert here.proxy.down_bytes < 1.1 * moved.whole_bytes + _MB

    run(story())


def test_pieces_become_small_where_lines_break_and_large_where_they_hold() -> None:
    assert piece_bytes_after(524_288, _MB, broke=True) == 4096
    assert piece_bytes_after(524_288, 100 * _MB, broke=True) == 409_600
    assert piece_bytes_after(524_288, 1000 * _MB, broke=True) == 524_288
    assert piece_bytes_after(4096, 100 * _MB, broke=False) == 8192
    assert piece_bytes_after(4096, 5000, broke=False) == 4096


def test_a_bit_that_turns_on_the_way_breaks_the_line_and_nothing_else(tmp_path: Path) -> None:
    content = noise(2 * _MB)

    async def story() -> None:
        # The first connection asks what there is, the second fetches.
        async with line(tmp_path, lambda n: Fault(corrupt_at_byte=_MB) if n == 1 else NO_FAULT) as here:
            wish = here.assign({"model.onnx": content})
            moved = await here.depot.download(wish.files, here.courier, _nothing)
            assert here.depot.blob(wish.files[0].digest).read_bytes() == content
            assert moved.moved_bytes == moved.whole_bytes

    run(story())


def test_a_line_that_falls_silent_is_given_up_and_dialled_again(tmp_path: Path) -> None:
    content = noise(2 * _MB)

    async def story() -> None:
        async with line(tmp_path, lambda n: Fault(silent_after_bytes=_MB) if n == 1 else NO_FAULT) as here:
            wish = here.assign({"model.onnx": content})
            courier = here.dial(keepalive_seconds=1.0)
            moved = await here.depot.download(wish.files, courier, _nothing)
            assert here.depot.blob(wish.files[0].digest).read_bytes() == content
            assert moved.moved_bytes == moved.whole_bytes

    run(story())


def test_a_slow_line_is_no_fault(tmp_path: Path) -> None:
    async def story() -> None:
        async with line(tmp_path, lambda _: Fault(delay_seconds=0.02)) as here:
            wish = here.assign({"model.onnx": noise(_MB)})
            await here.depot.download(wish.files, here.courier, _nothing)
            here.depot.verify(wish)

    run(story())


def test_a_hub_that_nobody_reaches_is_unreachable_and_keeps_what_came(tmp_path: Path) -> None:
    content = noise(2 * _MB)

    async def story() -> None:
        # The first cut may take with it all that came; the pieces after it are small.
        async with line(tmp_path, lambda n: Fault(cut_after_bytes=_MB if n < 3 else 0) if n else NO_FAULT) as here:
            wish = here.assign({"model.onnx": content})
            with pytest.raises(HubUnreachable):
                await here.depot.download(wish.files, here.courier, _nothing)
            (part,) = (here.folder / "cache").iterdir()
            assert content.startswith(part.read_bytes()) and part.stat().st_size > 0

    run(story())


def test_only_the_chunk_that_is_damaged_comes_again(tmp_path: Path) -> None:
    content = noise(4 * _MB + 1000)

    async def story() -> None:
        async with line(tmp_path) as here:
            wish = here.assign({"model.onnx": content})
            # As a power cut leaves it: the size is there, and zeros in place of what was not yet on the disk.
            part = here.folder / "cache" / f"{wish.files[0].digest.partition(':')[2]}.part"
            part.write_bytes(content[:CHUNK_BYTES] + bytes(CHUNK_BYTES) + content[2 * CHUNK_BYTES : 3 * CHUNK_BYTES])
            moved = await here.depot.download(wish.files[:1], here.courier, _nothing)
            assert here.depot.blob(wish.files[0].digest).read_bytes() == content
            assert moved.moved_bytes == len(content) - 2 * CHUNK_BYTES

    run(story())


def test_damage_is_not_forgotten_where_the_line_breaks_before_it_is_mended(tmp_path: Path) -> None:
    content = noise(2 * _MB)

    async def story() -> None:
        # Only the question what there is gets through at first: then nothing comes, nor when it is dialled again; and so twice.
        broken = {1, 2, 4, 5}
        async with line(tmp_path, lambda n: Fault(cut_after_bytes=0) if n in broken else NO_FAULT) as here:
            wish = here.assign({"model.onnx": content})
            part = here.folder / "cache" / f"{wish.files[0].digest.partition(':')[2]}.part"
            part.write_bytes(bytes(CHUNK_BYTES))
            for _ in range(2):
                with pytest.raises(HubUnreachable):
                    await here.depot.download(wish.files[:1], here.courier, _nothing)
            await here.depot.download(wish.files[:1], here.courier, _nothing)
            assert here.depot.blob(wish.files[0].digest).read_bytes() == content

    run(story())


def test_what_is_damaged_on_the_hub_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        async with line(tmp_path) as here:
            wish = here.assign({"model.onnx": noise(3 * _MB)})
            await here.depot.download(wish.files, here.courier, _nothing)
            # The hub knows the chunks by now; then its disk fails.
            blob = here.world.blobs.path(wish.files[0].digest)
            blob.write_bytes(blob.read_bytes()[:-5] + b"wrong")
            other = Depot(tmp_path / "other")
            with pytest.raises(AgentError, match=r"bytes 2097152 to 3145728 of .* arrived damaged 3 times"):
                await other.download(wish.files, here.courier, _nothing)

    run(story())
