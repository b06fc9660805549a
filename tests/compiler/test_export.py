"""What is exported of a bundle serves it: the agent's own verb for real, containers and manifests by reading them."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.cli import main

from tests.agent.bundles import example


def test_an_exported_bundle_is_served_without_a_hub_until_it_is_told_to_end(tmp_path: Path) -> None:
    made = example(tmp_path)
    assert main(["export", str(made.bundle.folder), "--output", str(tmp_path / "out")]) == 0
    assert verify_bundle(tmp_path / "out" / "bundle").digest == made.bundle.digest
    command = [sys.executable, "-m", "milonga_agent", "serve", str(tmp_path / "out" / "bundle"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        base = url.partition("/v2/")[0]
        picture = {
            "name": "picture",
            "shape": [1],
            "datatype": "BYTES",
            "data": [base64.b64encode(made.png(3)).decode()],
        }
        try:
            assert httpx.get(f"{base}/v2/health/ready").json() == {"ready": True}
            answer = httpx.post(f"{url}/infer", json={"inputs": [picture], "outputs": [{"name": "class"}]}).json()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert answer["outputs"][0]["data"] == [str(made.pictures.labels[3])]


def test_what_cannot_be_served_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from milonga_agent.cli import main as agent

    assert agent(["serve", str(tmp_path), "--port", "0"]) != 0
    assert "is not a manifest that can be served" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "manifest" in capsys.readouterr().err


def test_the_manifests_probe_the_server_where_it_listens(tmp_path: Path) -> None:
    made = example(tmp_path)
    out = tmp_path / "out"
    assert main(["export", str(made.bundle.folder), "--output", str(out), "--kubernetes"]) == 0
    deployment, service = json.loads((out / "kubernetes.json").read_text("utf-8"))["items"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8000}
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    text = (out / "Containerfile").read_text("utf-8")
    command = json.loads(text.rpartition("CMD ")[2])
    assert command == ["milonga-agent", "serve", "/bundle", "--host", "0.0.0.0", "--port", "8000"]
    assert "milonga-agent[onnxruntime]" in text
    assert "Not verified" in text
    assert main(["export", str(made.bundle.folder), "--output", str(out)]) == 2


def test_a_bundle_is_written_as_tangos_deployers_read_it(tmp_path: Path) -> None:
    made = example(tmp_path)
    out = tmp_path / "tango"
    assert main(["export", str(made.bundle.folder), "--output", str(out), "--tango", "ondevice"]) == 0
    network, deployment, labels = (
        yaml.safe_load((out / name).read_text(encoding="utf-8"))
        for name in ("neural_net_info.yaml", "deployment.yaml", "labelmap.yaml")
    )
    assert (network["nc"], network["input_tensor_shape"]) == (10, [1, 3, 16, 16])
    assert (labels["names"], labels["task"]) == ([str(digit) for digit in range(10)], "classification")
    # The network's input by TANGO's words is the one that the agent makes.
    pixels = made.pictures.images[3].astype(float)
    by_tango = pixels / np.reshape(network["norm"], (3, 1, 1)) - np.reshape(network["mean"], (3, 1, 1))
    assert np.abs(by_tango - made.pictures.normalised[3]).max() < 1e-5
    assert deployment["deploy"] == {
        "type": "ondevice",
        "work_dir": "/workspace",
        "entrypoint": ["python3", "run.py", "/data/input.png"],
    }
    assert (out / deployment["optional"]["weight_file"]).exists() and "onnxruntime" in (
        out / "requirements.txt"
    ).read_text(encoding="utf-8")
    picture = tmp_path / "picture.png"
    picture.write_bytes(made.png(3))
    done = subprocess.run(
        [sys.executable, str(out / "run.py"), str(picture)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split()[0] == str(made.pictures.labels[3])
