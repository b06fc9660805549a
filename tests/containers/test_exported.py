"""What `milonga-compiler export` writes is followed to the letter, and what then serves answers as the bundle was proved to.

`make test-container` makes what stands for the image's base; elsewhere these tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from milonga_compiler.environments import usable
from milonga_compiler.export import CONTAINER_ENGINES, export

from tests.agent.bundles import example
from tests.containers.followed import Image, follow

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def base() -> Path:
    folder = os.environ.get("MILONGA_CONTAINER_ROOT")
    if folder is None:
        pytest.skip("there is nothing that stands for an image; run: make test-container")
    return Path(folder)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Give a place for the image, which takes hundreds of megabytes."""
    yield tmp_path / "root"
    shutil.rmtree(tmp_path / "root", ignore_errors=True)


@pytest.mark.parametrize("engine", CONTAINER_ENGINES)
def test_a_container_serves_what_the_bundle_was_proved_to_compute(
    engine: str, base: Path, root: Path, tmp_path: Path
) -> None:
    if not usable(engine):
        pytest.skip(f"{engine} cannot build here")
    made, out = example(tmp_path / "made", engine), tmp_path / "out"
    before = os.umask(0o077)
    try:
        export(made.bundle.folder, out, kubernetes=True)
    finally:
        os.umask(before)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"{ROOT}/protos", f"{ROOT}/agent"]
    subprocess.run([*command, "-w", str(out / "wheels")], check=True)
    image = follow(out / "Containerfile", base, root)
    # A port of its own: here the container shares this machine's.
    url, command = _with_a_free_port(image)
    with image.running(command) as process:
        assert process.stdout is not None and "answers at" in process.stdout.readline()
        assert httpx.get(f"{url}/v2/health/ready").json() == {"ready": True}
        given, expected = (np.load(made.bundle.folder / f"probe_{name}.npy") for name in ("input", "expected"))
        image_tensor = {
            "name": "image", "shape": list(given.shape), "datatype": "FP32", "data": given.ravel().tolist()
        }  # fmt: skip
        asked = {"inputs": [image_tensor], "outputs": [{"name": "logits"}]}
        (logits,) = httpx.post(f"{url}/v2/models/digits/infer", json=asked).json()["outputs"]
        error = np.abs(np.reshape(logits["data"], expected.shape) - expected).max()
        assert error < made.bundle.manifest["probe"]["max_abs_error"], error
        _, service = json.loads((out / "kubernetes.json").read_text(encoding="utf-8"))["items"]
        assert service["metadata"]["name"] == "digits"
        assert _peak_bytes(process.pid) < _limit_bytes(out)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def _with_a_free_port(image: Image) -> tuple[str, list[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert image.command[-2:] == ["--port", "8000"]
    return f"http://127.0.0.1:{port}", [*image.command[:-1], str(port)]


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return kilobytes << 10


def _limit_bytes(out: Path) -> int:
    deployment, _ = json.loads((out / "kubernetes.json").read_text(encoding="utf-8"))["items"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    return int(limit[:-2]) << 20
