"""Engines that a device builds for itself: made in a process of their own, cached, and passed over where they fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from milonga_agent.daemon import Agent, Options
from milonga_agent.device_builds import Outcome, Record
from milonga_agent.engines import Choice, Engines
from milonga_agent.errors import BadBundle
from milonga_agent.limits import Limits
from milonga_agent.plan import Wish
from milonga_agent.reports import device_build
from milonga_agent.served import Served
from milonga_agent.serving import Serving
from milonga_agent.steps import Depot
from milonga_compiler.bundle import Bundle
from milonga_compiler.deferred import defer
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target
from milonga_hub.devices.models import DeviceBuildState
from onnx import numpy_helper

from tests.agent.bundles import Example, example
from tests.compiler.engines_here import need, runs_here
from tests.devices.world import hub, run


@dataclass
class Device:
    """Bundles on disk, engines of a device, and what it told the hub of its builds."""

    folder: Path
    made: Example
    told: list[Record]

    def engines(self, limits: Limits = Limits()) -> Engines:
        return Engines(self.folder / "engines", limits, self.told.append)

    def bundle(self, target: str, fallbacks: bool = True, **choices: Any) -> Bundle:
        """Return a bundle that a device builds from, with the finished build behind it."""
        pictures = self.made.pictures
        held_out = slice(pictures.train_count, pictures.train_count + 60)
        logits = _logits(self.made, pictures.normalised[held_out])
        evidence = Labelled(pictures.normalised[held_out], logits, pictures.labels[held_out])
        known = {
            key: self.made.bundle.manifest[key] for key in ("task", "project", "model_version", "classes", "input")
        }
        onnx = self.made.bundle.folder.parent / "model.onnx"
        others = [self.made.bundle] if fallbacks else []
        folder = self.folder / target.replace("/", "-")
        built = defer(onnx, Target.parse(target), folder, evidence, pictures.normalised[:64], known, others, **choices)
        assert built.bundle is not None, built.reason
        return built.bundle


def _logits(made: Example, inputs: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(made.bundle.folder.parent / "model.onnx"))
    return session.run(None, {"image": inputs})[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return example(tmp_path_factory.mktemp("made"))


@pytest.fixture
def device(tmp_path: Path, made: Example) -> Iterator[Device]:
    yield Device(tmp_path, made, [])


def _targets(engines: Engines, bundle: Bundle) -> list[str]:
    return [choice.target for choice in engines.choices(bundle.digest, bundle.folder)]


def test_a_build_is_made_once_and_taken_from_the_cache_by_the_next_bundle_of_the_network(device: Device) -> None:
    engines, bundle = device.engines(), device.bundle("onnxruntime/int8")
    asyncio.run(engines.build(bundle.digest, bundle.folder))
    (first,) = device.told
    assert (first.state, first.cached, first.error) == (Outcome.VERIFIED, False, "") and first.seconds > 0
    assert first.max_abs_error is not None and first.max_abs_error > 0
    assert _targets(engines, bundle) == ["onnxruntime/int8", "onnxruntime/fp32"]
    other = device.bundle("onnxruntime/int8", max_seconds=99.0)
    again = device.engines()
    asyncio.run(again.build(other.digest, other.folder))
    assert other.digest != bundle.digest and device.told[-1].cached and device.told[-1].seconds == first.seconds
    assert _targets(again, other) == ["onnxruntime/int8", "onnxruntime/fp32"]
    choice = again.choices(other.digest, other.folder)[0]
    served = Served(other.folder, 1, choice.target, choice.model)
    assert served.probe() == pytest.approx(first.max_abs_error, abs=1e-6)


_FEW_ALIKE = "% of the classes on 60 pictures are those of the network, 95% are asked for"


@pytest.mark.parametrize(
    ("engine", "tensors", "channel", "factor", "said"),
    [
        ("openvino", {"kernel"}, 7, 1.0, ""),
        # Off by far more than a tenth of the range, and right.
        ("onnxruntime", {"weights", "bias"}, None, 0.7, ""),
        ("onnxruntime", {"kernel"}, 7, -2.0, _FEW_ALIKE),
        ("onnxruntime", {"weights", "bias"}, None, 9.0, "its outputs differ by up to"),
    ],
    ids=["whole", "all quieter", "one channel broken", "all too loud"],
)
def test_int8_is_held_to_what_the_network_decides(
    engine: str, tensors: set[str], channel: int | None, factor: float, said: str, device: Device
) -> None:
    need(engine)
    bundle, engines = device.bundle(f"{engine}/int8"), device.engines()
    # What the engine makes is wrong as if it had quantised wrongly.
    _scale(bundle.folder / "network.onnx", tensors, channel, factor)
    asyncio.run(engines.build(bundle.digest, bundle.folder))
    (record,) = device.told
    assert said in record.error and (record.state is Outcome.BUILT) == bool(said)
    assert record.max_abs_error is not None
    narrow = bundle.manifest["probe"]["max_abs_error"]
    if factor == 0.7:
        assert record.max_abs_error > narrow, "agents from before the proof refuse it"
    if channel is not None and not said:
        served = Served(bundle.folder, 1, *_first(engines, bundle))
        assert served.probe() <= record.max_abs_error + 1e-6


def _scale(path: Path, tensors: set[str], channel: int | None, factor: float) -> None:
    network = onnx.load(str(path))
    for one in network.graph.initializer:
        if one.name in tensors:
            values = numpy_helper.to_array(one).copy()
            values[slice(None) if channel is None else channel] *= factor
            one.CopyFrom(numpy_helper.from_array(values, one.name))
    onnx.save(network, str(path))


def _first(engines: Engines, bundle: Bundle) -> tuple[str, Path]:
    choice = engines.choices(bundle.digest, bundle.folder)[0]
    return choice.target, choice.model


def test_an_engine_that_the_device_lacks_is_passed_over_and_the_next_one_serves(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = device.bundle("tensorrt/fp16")
    monkeypatch.setenv("MILONGA_ENGINE_TENSORRT_PYTHON", str(device.folder / "no-python"))
    engines = device.engines()

    async def story() -> str:
        await engines.build(bundle.digest, bundle.folder)
        serving = Serving(0, Limits(), lambda wish, counted: None, engines)
        wish = Wish(1, bundle.digest, (), "models/digits/versions/1", "digits")
        await serving.activate(wish, bundle.folder)
        assert serving.active is not None
        target = serving.active.choice.target
        await serving.close()
        return target

    assert asyncio.run(story()) == "onnxruntime/fp32"
    (record,) = device.told
    assert record.state is Outcome.FAILED and "which cannot be run" in record.error
    message = device_build(record)
    assert (message.engine, message.precision, message.bundle) == ("tensorrt", "fp16", bundle.digest)
    assert not message.HasField("max_abs_error")


def test_tensorrt_is_really_built_here_and_serves_only_where_its_gpu_is(device: Device) -> None:
    need("tensorrt")
    engines = device.engines()
    for precision in ("fp32", "fp16", "int8"):
        bundle = device.bundle(f"tensorrt/{precision}")
        asyncio.run(engines.build(bundle.digest, bundle.folder))
        record = device.told[-1]
        assert record.engine_version and record.seconds > 0
        if runs_here("tensorrt"):
            assert record.state is Outcome.VERIFIED, record.error
            assert _targets(engines, bundle)[0] == f"tensorrt/{precision}"
        else:
            # Parser and builder did their work; only what was made cannot be run.
            assert record.state is Outcome.BUILT and "runs on the GPU" in record.error
            assert _targets(engines, bundle) == ["onnxruntime/fp32"]


def test_a_build_that_takes_too_long_or_too_much_memory_is_ended(device: Device) -> None:
    slow = device.bundle("onnxruntime/int8", max_seconds=0.01)
    asyncio.run(device.engines().build(slow.digest, slow.folder))
    assert device.told[-1].state is Outcome.FAILED and "was ended after 0.01 s" in device.told[-1].error
    large = device.bundle("onnxruntime/int8")
    asyncio.run(device.engines(Limits(memory_bytes=24 << 20)).build(large.digest, large.folder))
    assert device.told[-1].state is Outcome.FAILED and "memory" in device.told[-1].error.lower()


def test_what_does_not_load_is_not_tried_again_after_a_restart(device: Device) -> None:
    bundle = device.bundle("onnxruntime/int8")
    engines = device.engines()
    asyncio.run(engines.build(bundle.digest, bundle.folder))
    engines.note(bundle.digest, engines.choices(bundle.digest, bundle.folder)[0], "the probe differs")
    assert (device.told[-1].state, device.told[-1].error) == (Outcome.BUILT, "the probe differs")
    assert _targets(device.engines(), bundle) == ["onnxruntime/fp32"]
    # A new wish for it is a new chance.
    asyncio.run(engines.build(bundle.digest, bundle.folder))
    assert _targets(device.engines(), bundle)[0] == "onnxruntime/int8"


def test_a_build_that_was_lost_or_is_of_another_version_is_not_served(device: Device) -> None:
    bundle = device.bundle("onnxruntime/int8")
    engines = device.engines()
    asyncio.run(engines.build(bundle.digest, bundle.folder))
    engines.choices(bundle.digest, bundle.folder)[0].model.unlink()
    assert _targets(engines, bundle) == ["onnxruntime/fp32"]
    (device.folder / "engines" / "builds.json").write_text("{")
    assert device.engines().records == []
    engines.collect(set())
    assert engines.records == []


def test_a_measurement_never_falls_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILONGA_ENGINE_TENSORRT_PYTHON", str(device.folder / "no-python"))
    bundle = device.bundle("tensorrt/fp16")
    with pytest.raises(BadBundle, match=r"tensorrt/fp16: MILONGA_ENGINE"):
        asyncio.run(device.engines().built(bundle.digest, bundle.folder))
    assert asyncio.run(device.engines().built(device.made.bundle.digest, device.made.bundle.folder)) is None


def test_a_bundle_of_one_engine_has_nothing_to_build(device: Device) -> None:
    engines, bundle = device.engines(), device.made.bundle
    asyncio.run(engines.build(bundle.digest, bundle.folder))
    (choice,) = engines.choices(bundle.digest, bundle.folder)
    assert choice == Choice(
        "onnxruntime/fp32",
        "onnxruntime",
        bundle.folder / "model.onnx",
        choice.probe,
        device_build=False,
        preferred=True,
    )
    assert not device.told
    (bundle.folder.parent / "empty").mkdir(exist_ok=True)
    with pytest.raises(BadBundle, match="cannot be read"):
        engines.choices("sha256:0", bundle.folder.parent / "empty")


def test_without_an_agent_the_finished_build_of_a_bundle_is_served(device: Device) -> None:
    bundle = device.bundle("tensorrt/fp16")
    served = Served(bundle.folder, threads=1)
    assert served.probe() < 1e-4
    pictures = device.made.pictures
    answers = served.of_tensor(pictures.normalised[700:720]).values
    assert json.dumps(sorted(answers)) and np.isfinite(served.probe())


def test_a_bundle_that_devices_build_from_is_laid_out_like_any_other(device: Device) -> None:
    bundle = device.bundle("tensorrt/int8")
    depot = Depot(device.folder)
    for file in bundle.files:
        depot.blob(file.digest).write_bytes((bundle.folder / file.path).read_bytes())
    wish = Example(bundle, device.made.pictures).wish()
    depot.verify(wish)
    folder = depot.install(wish)
    assert (folder / "fallback-1" / "model.onnx").is_file()
    assert np.load(folder / "calibration.npy").shape == (64, 3, 16, 16)


def test_the_hub_is_told_what_failed_and_which_engine_really_serves(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = device.bundle("tensorrt/fp16")
    monkeypatch.setenv("MILONGA_ENGINE_TENSORRT_PYTHON", str(device.folder / "no-python"))

    async def story() -> None:
        (device.folder / "hub").mkdir()
        async with hub(device.folder / "hub") as world:
            options = Options(f"127.0.0.1:{world.port}", device.folder / "agent", "orin-1", world.token())
            working = asyncio.ensure_future(Agent(options).run())
            await world.until(lambda: bool(world.devices.matching("")))
            size_bytes = (bundle.folder / "manifest.json").stat().st_size
            world.signing.sign("digits", {bundle.digest: size_bytes})
            files = [world.file((bundle.folder / one.path).read_bytes(), one.path) for one in bundle.files]
            version = "models/digits/versions/1"
            generation = world.devices.assign("orin-1", bundle.digest, files, version, "digits", "tensorrt/fp16")
            await world.until_device("orin-1", lambda known: known.reported_generation == generation)
            known = world.devices.get("orin-1")
            assert (known.active_bundle, known.active_engine) == (bundle.digest, "onnxruntime/fp32")
            (told,) = world.devices.device_builds("orin-1")[0]
            assert told.state is DeviceBuildState.FAILED and "which cannot be run" in told.error
            ended = [step.step for step in world.devices.steps("orin-1") if step.state == "SUCCEEDED"]
            assert ended[2:4] == ["INSTALL", "BUILD"], "an engine that does not build fails no step"
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    run(story())
