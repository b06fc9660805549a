"""What the hub serves to devices that have no agent yet, without starting one."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from milonga_hub.errors import InvalidInput
from milonga_hub.install.wheelhouse import Kind, Platform, check_engines, known_engines, unmet
from milonga_hub.install.wheels import SERVED, wheel_of
from milonga_hub.transports.http import create_app

from tests.web.filled import Services


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return TestClient(create_app(Services(tmp_path)), base_url="http://127.0.0.1")


@pytest.mark.parametrize("distribution", SERVED)
def test_a_wheel_holds_the_installed_files_and_a_record_of_each(distribution: str) -> None:
    wheel = wheel_of(distribution)
    assert wheel_of(distribution).content == wheel.content, "the same files give the same digest"
    with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
        names = archive.namelist()
        record = next(name for name in names if name.endswith(".dist-info/RECORD"))
        rows = {row[0]: row for row in csv.reader(io.StringIO(archive.read(record).decode()))}
        assert set(rows) == set(names)
        for name in set(names) - {record}:
            content = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert rows[name][1:] == [f"sha256={digest}", str(len(content))]
        assert any(name.endswith("/METADATA") for name in names)
        assert f"{SERVED[distribution]}/__init__.py" in names
    assert not [name for name in names if name.endswith((".pyc", "direct_url.json", ".pth"))]


def test_the_index_names_each_wheel_with_the_digest_of_what_it_serves(client: TestClient) -> None:
    for distribution in SERVED:
        found = re.search(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', client.get(f"/simple/{distribution}/").text)
        assert found is not None
        content = client.get(f"/simple/{distribution}/{found[1]}").content
        assert hashlib.sha256(content).hexdigest() == found[2]
    assert client.get("/simple/torch/").status_code == 404
    assert client.get("/simple/milonga-agent/other-1.whl").status_code == 404


def test_wheelhouses_serve_only_what_was_prepared(client: TestClient, tmp_path: Path) -> None:
    answer = client.get("/wheelhouses/aarch64/3.11/")
    assert answer.status_code == 404
    assert "milonga agent-bundle --platform aarch64 --python 3.11" in answer.text
    folder = tmp_path / "wheelhouses" / "aarch64-3.11"
    folder.mkdir(parents=True)
    (folder / "six-1.0-py3-none-any.whl").write_bytes(b"wheel")
    (folder / "secret.txt").write_bytes(b"secret")
    digest = hashlib.sha256(b"wheel").hexdigest()
    assert f'href="six-1.0-py3-none-any.whl#sha256={digest}"' in client.get("/wheelhouses/aarch64/3.11/").text
    assert client.get("/wheelhouses/aarch64/3.11/six-1.0-py3-none-any.whl").content == b"wheel"
    assert client.get("/wheelhouses/aarch64/3.11/secret.txt").status_code == 404
    assert client.get("/wheelhouses/sparc/3.11/").status_code == 400


@pytest.mark.parametrize("host", ["hub';reboot;'", "$(reboot)", "a b", "`x`", "hub:1:2", ""])
def test_a_host_that_is_no_address_never_gets_into_the_script(tmp_path: Path, host: str) -> None:
    hub = Services(tmp_path)
    hub.settings = hub.settings.model_copy(update={"host": "0.0.0.0"})
    answer = TestClient(create_app(hub), base_url="http://127.0.0.1").get("/install.sh", headers={"host": host})
    assert answer.status_code == 400
    assert not answer.text.startswith("#!")


def test_the_script_names_ipv6_hubs_as_well(client: TestClient) -> None:
    script = client.get("/install.sh", headers={"host": "[::1]:8080"}).text
    assert "HUB_URL='http://[::1]:8080'" in script
    assert "HUB_GRPC='[::1]:8443'" in script
    assert "@HUB" not in script


def test_conditions_of_dependencies_are_judged_for_the_device_and_not_for_the_hub(tmp_path: Path) -> None:
    metadata = (
        "Metadata-Version: 2.1\nName: odd\nVersion: 1\n"
        "Requires-Dist: backport>=2; python_version < '3.10'\n"
        "Requires-Dist: arm-only; platform_machine == 'aarch64'\n"
        "Requires-Dist: on-windows; sys_platform == 'win32'\n"
        "Requires-Dist: with-extra; extra == 'more'\n"
    )
    with zipfile.ZipFile(tmp_path / "odd-1-py3-none-any.whl", "w") as archive:
        archive.writestr("odd-1.dist-info/METADATA", metadata)
    assert list(unmet(tmp_path, Kind(Platform.AARCH64, "3.9"), [])) == ["backport>=2", "arm-only"]
    assert list(unmet(tmp_path, Kind(Platform.X86_64, "3.11"), [])) == []


@pytest.mark.parametrize("python", ["2.7", "3.8", "3", "3.11.2", "python3"])
def test_only_pythons_that_the_agent_runs_on_have_wheelhouses(python: str) -> None:
    with pytest.raises(InvalidInput, match="not a Python that the agent runs on"):
        Kind(Platform.AARCH64, python)


def test_an_unknown_engine_is_named_with_those_that_there_are() -> None:
    assert "onnxruntime" in known_engines()
    with pytest.raises(InvalidInput, match=r"no engine 'tensorflow'; choose among: .*onnxruntime"):
        check_engines(["onnxruntime", "tensorflow"])


def test_an_engine_that_there_is_not_is_refused_before_anything_is_installed(
    client: TestClient, tmp_path: Path
) -> None:
    script = client.get("/install.sh").text
    options = ["--root", str(tmp_path / "device"), "--token", "T", "--engines", "ncnn,onnx"]
    done = subprocess.run(["sh", "-s", "--", *options], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "there is no engine onnx; choose among: litert ncnn onnxruntime" in done.stderr
    assert not (tmp_path / "device").exists()


def test_an_agent_that_runs_is_ended_before_its_files_are_removed(client: TestClient, tmp_path: Path) -> None:
    script, prefix = client.get("/install.sh").text, tmp_path / "opt/milonga-agent"
    prefix.mkdir(parents=True)

    def uninstalled() -> subprocess.CompletedProcess[str]:
        options = ["--root", str(tmp_path), "--uninstall"]
        return subprocess.run(["sh", "-s", "--", *options], input=script, capture_output=True, text=True, check=False)

    waits = [sys.executable, "-c", "input()", f"{prefix}/start"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as agent:
        refused = uninstalled()
        agent.communicate(b"\n")
    assert refused.returncode == 1 and f"(kill {agent.pid})" in refused.stderr and prefix.exists()
    assert uninstalled().returncode == 0 and not prefix.exists()
