"""What is compiled here for aarch64 runs there and computes the same; the agent joins, installs and serves there.

`make test-aarch64` makes the user-space that these tests run in; elsewhere they are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Floats
from milonga_compiler.build import State, build
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target
from milonga_compiler.tuning import Budget, Tuning

from tests.aarch64.userland import Userland
from tests.agent.bundles import Example, example
from tests.compiler.detector import SIZE_PX, write_detector
from tests.compiler.networks import digits, write_network
from tests.compiler.test_tvm_device import Device
from tests.devices.world import World, hub

# Kernels add in another order on another processor: ONNX Runtime and TVM stayed within 3e-5 of the host.
_CLOSE = 1e-4
# Emulated, and on machines with much other work: what takes longer hangs.
_SECONDS = 1500.0
# Schedules of one kernel, the least that is tried.
_ONE_TURN = 16

_RUN = """
import sys
from pathlib import Path
import numpy as np
from milonga_agent.runtimes import load
engine, model, given, made = sys.argv[1:]
np.save(made, load(engine, Path(model), 1).run(np.load(given)))
"""


@pytest.fixture(scope="module")
def userland() -> Userland:
    folder = os.environ.get("MILONGA_AARCH64")
    if folder is None:
        pytest.skip("there is no aarch64 user-space; run: make test-aarch64")
    return Userland(Path(folder))


def _outputs(userland: Userland, engine: str, model: Path, inputs: Floats, folder: Path) -> Floats:
    """Return what the agent's runtime computes there."""
    np.save(folder / "given.npy", inputs)
    said = userland.run(["-c", _RUN, engine, str(model), str(folder / "given.npy"), str(folder / "made.npy")], _SECONDS)
    assert said.returncode == 0, said.stderr[-2000:]
    outputs: Floats = np.load(folder / "made.npy")
    return outputs


class TestTvm:
    def test_a_classifier_that_is_compiled_here_computes_the_same_there(
        self, userland: Userland, tmp_path: Path
    ) -> None:
        pictures = digits(700)
        logits = write_network(tmp_path / "model.onnx", pictures)
        proof = Labelled(pictures.normalised[600:], logits[600:], pictures.labels[600:])
        target, folder = Target.parse("tvm/fp32", "aarch64"), tmp_path / "bundle"
        built = build(tmp_path / "model.onnx", target, folder, proof, None, {"task": "classification"}, 0.5)
        assert built.state is State.BUILT, built.reason
        there = _outputs(userland, "tvm", folder / "model.so", proof.pictures[:8], tmp_path)
        here = _compiled_here(tmp_path / "model.onnx", proof.pictures[:8], tmp_path / "here")
        assert np.abs(there - here).max() < _CLOSE
        assert np.abs(there - proof.logits[:8]).max() < 1e-3

    def test_a_detector_that_is_compiled_here_computes_the_same_there(self, userland: Userland, tmp_path: Path) -> None:
        onnx = write_detector(tmp_path / "model.onnx")
        scenes = np.random.default_rng(0).normal(0, 1, (2, 3, SIZE_PX, SIZE_PX)).astype(np.float32)
        built = next(backend("tvm").build(onnx, Target.parse("tvm/fp32", "aarch64"), tmp_path, None))
        there = _outputs(userland, "tvm", tmp_path / built.model_file, scenes, tmp_path)
        assert np.abs(there - _compiled_here(onnx, scenes, tmp_path / "here")).max() < _CLOSE

    def test_kernels_are_timed_there_and_a_build_with_those_that_were_chosen_computes_the_same(
        self, userland: Userland, tmp_path: Path
    ) -> None:
        """Which schedule is the fastest under emulation says nothing of a board; that all of them are its machine code does."""
        pictures, onnx, target = digits(700), tmp_path / "model.onnx", Target.parse("tvm/fp32", "aarch64")
        logits = write_network(onnx, pictures)
        (tmp_path / "device").mkdir()
        device = Device(tmp_path / "device", str(userland.python))
        budget = Budget(trials=_ONE_TURN)
        begun, *_, last = backend("tvm").tune(onnx, target, Tuning(tmp_path / "tuned", budget, timer=device))
        assert device.counts == [len(begun.kernels), last.trials] and 0 < last.trials <= _ONE_TURN
        assert all(one.untuned_ms > 0 for one in begun.kernels) and sum(one.tuned for one in last.kernels) == 1
        built = next(backend("tvm", database=tmp_path / "tuned").build(onnx, target, tmp_path, None))
        assert built.note.startswith("1 of "), built.note
        there = _outputs(userland, "tvm", tmp_path / built.model_file, pictures.normalised[:8], tmp_path)
        assert np.abs(there - logits[:8]).max() < 1e-3


def _compiled_here(onnx: Path, inputs: Floats, folder: Path) -> Floats:
    folder.mkdir()
    engine = backend("tvm")
    built = next(engine.build(onnx, Target.parse("tvm/fp32"), folder, None))
    return engine.run(folder / built.model_file, inputs, 1)


def test_onnx_runtime_computes_there_what_it_does_here(userland: Userland, tmp_path: Path) -> None:
    pictures = digits(700)
    logits = write_network(tmp_path / "model.onnx", pictures)
    there = _outputs(userland, "onnxruntime", tmp_path / "model.onnx", pictures.normalised[:8], tmp_path)
    assert np.abs(there - logits[:8]).max() < _CLOSE


def test_the_agent_says_what_it_runs_on(userland: Userland) -> None:
    said = userland.run(["-m", "milonga_agent", "inventory", "--json"], _SECONDS)
    assert said.returncode == 0, said.stderr[-2000:]
    found = json.loads(said.stdout)
    assert found["architecture"] == "aarch64"
    assert {"onnxruntime", "tvm"} <= {engine["name"] for engine in found["engines"]}


def test_the_agent_joins_installs_and_serves_there(userland: Userland, tmp_path: Path) -> None:
    made = example(tmp_path / "made")

    async def story() -> None:
        (tmp_path / "hub").mkdir()
        async with hub(tmp_path / "hub") as world:
            size_bytes = (made.bundle.folder / "manifest.json").stat().st_size
            world.signing.sign("digits", {made.bundle.digest: size_bytes})
            files = [world.file((made.bundle.folder / one.path).read_bytes(), one.path) for one in made.bundle.files]
            async with _agent(userland, world, tmp_path / "agent"):
                await world.until(lambda: bool(world.devices.matching("")))
                world.devices.assign(
                    "pi-1", made.bundle.digest, files, "models/digits/versions/1", "digits", "onnxruntime/fp32"
                )
                await world.until_device("pi-1", lambda device: device.active_bundle == made.bundle.digest)
                device = world.devices.get("pi-1")
                assert device.active_engine == "onnxruntime/fp32" and device.inventory.architecture == "aarch64"
                answered = await asyncio.to_thread(_ask, device.serving_url, made)
                expected = [str(label) for label in made.pictures.labels[700:710]]
                assert sum(a == b for a, b in zip(answered, expected, strict=True)) >= 9

    asyncio.run(asyncio.wait_for(story(), _SECONDS))


@asynccontextmanager
async def _agent(userland: Userland, world: World, folder: Path) -> AsyncIterator[None]:
    folder.mkdir()
    with (folder / "log.txt").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(userland.python), "-m", "milonga_agent", "run", "--hub", f"127.0.0.1:{world.port}", "--name", "pi-1",
            "--join-token", world.token(), "--data-dir", str(folder / "data"), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield
    except BaseException:
        print((folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:])
        raise
    finally:
        process.terminate()
        await process.wait()


def _ask(url: str, made: Example) -> list[str]:
    tensor = made.pictures.normalised[700:710]
    image = {"name": "image", "shape": list(tensor.shape), "datatype": "FP32", "data": tensor.ravel().tolist()}
    body: dict[str, Any] = {"inputs": [image], "outputs": [{"name": "class"}]}
    request = urllib.request.Request(f"{url}/v2/models/digits/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    return [str(each) for each in answer["outputs"][0]["data"]]
