"""What is exported of a bundle serves it: the agent's own verb for real, manifests by reading them (containers: tests/containers)."""

from __future__ import annotations

import base64
import json
import os
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
from milonga_compiler.tango import _machine_code

from tests.agent.bundles import Example, example


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return example(tmp_path_factory.mktemp("made"))


def test_an_exported_bundle_is_served_without_a_hub_until_it_is_told_to_end(made: Example, tmp_path: Path) -> None:
    assert main(["export", str(made.bundle.folder), "--output", str(tmp_path / "out")]) == 0
    assert verify_bundle(tmp_path / "out" / "bundle").digest == made.bundle.digest
    # As the Containerfile has it, but for the place and a port of its own.
    said = json.loads((tmp_path / "out" / "Containerfile").read_text("utf-8").rpartition("CMD ")[2])
    exact = {"milonga-agent": "milonga_agent", "/bundle": str(tmp_path / "out" / "bundle"), "8000": "0"}
    command = [sys.executable, "-m", *(exact.get(word, word) for word in said)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        base = url.partition("/v2/")[0]
        assert base.startswith("http://0.0.0.0:")
        picture = {
            "name": "picture",
            "shape": [1],
            "datatype": "BYTES",
            "data": [base64.b64encode(made.png(3)).decode()],
        }
        try:
            assert httpx.get(f"{base}/v2/health/ready").json() == {"ready": True}
            answer = httpx.post(f"{url}/infer", json={"inputs": [picture], "outputs": [{"name": "class"}]}).json()
            assert _answered(url, made) < made.bundle.manifest["probe"]["max_abs_error"]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert answer["outputs"][0]["data"] == [str(made.pictures.labels[3])]


def _answered(url: str, made: Example) -> float:
    """Return the largest error of what it answers to the bundle's own example."""
    given, expected = (np.load(made.bundle.folder / f"probe_{name}.npy") for name in ("input", "expected"))
    image = {"name": "image", "shape": list(given.shape), "datatype": "FP32", "data": given.ravel().tolist()}
    asked = {"inputs": [image], "outputs": [{"name": "logits"}]}
    (logits,) = httpx.post(f"{url}/infer", json=asked).json()["outputs"]
    return float(np.abs(np.reshape(logits["data"], expected.shape) - expected).max())


def test_what_is_exported_by_someone_whose_files_nobody_reads_is_read_by_the_containers_user(
    made: Example, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        assert main(["export", str(made.bundle.folder), "--output", str(tmp_path / "out")]) == 0
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out" / "bundle").iterdir()}
    assert modes == {0o644} and (tmp_path / "out" / "bundle").stat().st_mode & 0o777 == 0o755


def test_a_serving_that_is_ended_before_it_began_ends(tmp_path: Path) -> None:
    """As process 1 of a container it would not, but for handlers of its own."""
    (tmp_path / "manifest.json").symlink_to(fifo := tmp_path / "fifo")
    os.mkfifo(fifo)
    process = subprocess.Popen([sys.executable, "-m", "milonga_agent", "serve", str(tmp_path), "--port", "0"])
    with process, fifo.open("w"):  # It reads the manifest now, and will wait for its end.
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_what_cannot_be_served_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from milonga_agent.cli import main as agent

    assert agent(["serve", str(tmp_path), "--port", "0"]) != 0
    assert "is not a manifest that can be served" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "manifest" in capsys.readouterr().err


def test_the_manifests_probe_the_server_where_it_listens(
    made: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(made.bundle.folder), "--output", str(out), "--kubernetes"]) == 0
    assert "give --image" in capsys.readouterr().out, "nobody else knows where the cluster pulls from"
    deployment, service = json.loads((out / "kubernetes.json").read_text("utf-8"))["items"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8000}
    # What is promised is what it may take: with a thread for each of its CPUs, nothing else's load stops it.
    assert container["resources"]["limits"] == container["resources"]["requests"]
    probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    assert all(probe["timeoutSeconds"] > 1 for probe in probes), "one core answers requests and probes"
    image = f"digits:{made.bundle.digest.partition(':')[2][:12]}"
    assert container["image"] == image  # Another bundle is another image, which a cluster notices.
    text = (out / "Containerfile").read_text("utf-8")
    command = json.loads(text.rpartition("CMD ")[2])
    assert command == ["milonga-agent", "serve", "/bundle", "--host", "0.0.0.0", "--port", "8000"]
    assert '"$1[onnxruntime]"' in text and f"podman build -t {image} ." in text
    assert main(["export", str(made.bundle.folder), "--output", str(out)]) == 2


def test_an_image_is_called_as_the_cluster_knows_it(made: Example, tmp_path: Path) -> None:
    out, image = tmp_path / "out", "registry.example/vision/digits:7"
    assert main(["export", str(made.bundle.folder), "--output", str(out), "--kubernetes", "--image", image]) == 0
    deployment, _ = json.loads((out / "kubernetes.json").read_text("utf-8"))["items"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image
    assert f"podman build -t {image} ." in (out / "Containerfile").read_text("utf-8")


def test_a_bundle_is_written_as_tangos_deployers_read_it(made: Example, tmp_path: Path) -> None:
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
    assert deployment["build"]["architecture"] == "arm"
    assert (out / deployment["optional"]["weight_file"]).exists() and "onnxruntime" in (
        out / "requirements.txt"
    ).read_text(encoding="utf-8")
    picture = tmp_path / "picture.png"
    picture.write_bytes(made.png(3))
    done = subprocess.run(
        [sys.executable, str(out / "run.py"), str(picture)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split()[0] == str(made.pictures.labels[3])


def test_tango_is_told_the_architecture_of_the_device(made: Example, tmp_path: Path) -> None:
    def told(name: str, *arguments: str, kind: str = "ondevice") -> str:
        given = ["export", str(made.bundle.folder), "--output", str(tmp_path / name), "--tango", kind, *arguments]
        assert main(given) == 0
        text = (tmp_path / name / "deployment.yaml").read_text(encoding="utf-8")
        return str(yaml.safe_load(text)["build"]["architecture"])

    # On devices TANGO has boards, and PCs.
    assert told("pc", "--architecture", "x86") == "x86" and told("server", kind="cloud") == "x86"
    assert told("graviton", "--architecture", "arm", kind="cloud") == "arm"


@pytest.mark.parametrize(("machine", "architecture"), [(62, "x86"), (183, "arm"), (8, "")])
def test_machine_code_tells_what_it_is_for(machine: int, architecture: str, tmp_path: Path) -> None:
    library = tmp_path / "model.so"
    library.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + machine.to_bytes(2, "little"))
    assert _machine_code(library) == architecture
    (tmp_path / "model.onnx").write_bytes(b"\x08")
    assert _machine_code(tmp_path / "model.onnx") == ""
