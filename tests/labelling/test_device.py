"""A whole agent, with its workers, and a hub that labels: from a request on the device to the queue, and back to silence."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path

import httpx
import pytest
from milonga_agent import sample_sending
from milonga_hub.labelling.models import QueuedSample
from PIL import Image

from tests.agent.bundles import Example, example
from tests.agent.test_agent import Running, running
from tests.devices.world import run
from tests.labelling.floor import Floor, floor


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return example(tmp_path_factory.mktemp("example"))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_sending, "_LOOK_SECONDS", 0.1)


async def _ask(agent: Running, made: Example) -> None:
    """Have a picture answered, as a program on the device does."""
    url = f"{agent.world.devices.get('pi-1').serving_url}/v2/models/digits/infer"
    picture = {"name": "picture", "shape": [1], "datatype": "BYTES"}
    async with httpx.AsyncClient() as client:
        data = [base64.b64encode(made.png(700)).decode()]
        answer = await client.post(url, json={"inputs": [{**picture, "data": data}]})
        assert answer.status_code == 200, answer.text


def _samples(hub: Floor) -> list[QueuedSample]:
    return hub.labelling.list("digits")[0]


def test_a_picture_that_was_asked_about_arrives_redacted_and_none_once_sampling_is_off(
    tmp_path: Path, made: Example
) -> None:
    async def story() -> None:
        async with floor(tmp_path) as hub, running(hub.world, tmp_path / "agent", redact="downscale=8") as agent:
            telling = asyncio.ensure_future(hub.intake.run())
            # A slot of a second.
            hub.apply("digits", enabled=True, pictures_per_day=86_400)
            hub.world.settings.heartbeat_seconds = 0.2
            await hub.world.until(lambda: any(one.name == "pi-1" for one in hub.world.devices.matching("")))
            await agent.serve(made)
            await _ask(agent, made)
            await hub.world.until(lambda: len(_samples(hub)) == 1)
            (sample,) = _samples(hub)
            assert (sample.device, sample.predicted) == ("pi-1", str(made.pictures.labels[700]))
            assert sample.model_version == made.bundle.manifest["model_version"]
            with Image.open(io.BytesIO(hub.labelling.picture(sample.name)[0])) as sent:
                assert sent.size == (8, 8)
            # Something left behind, such as by a hub that was away, goes as soon as the hub says so.
            left = tmp_path / "agent" / "samples" / f"{1:016}-{1:064x}.sample"
            left.write_bytes(b"")
            hub.apply("digits", enabled=False)
            while left.exists():
                await asyncio.wait([agent.task], timeout=0.02)
            assert agent.agent._serving is not None and agent.agent._serving._sampling is None
            telling.cancel()

    run(story())
