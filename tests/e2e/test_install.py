"""The installation as a device does it: the hub's own script and index, a real pip, and the agent started from the unit."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from milonga.v1 import devices_pb2 as pb

from tests.e2e.processes import Child, System

ENGINE = "ncnn"  # The smallest one to download.
# pip compiles nothing of what it installs, most of which no test imports. It takes 0 for what the option says.
_ENVIRONMENT = {**os.environ, "PIP_NO_COMPILE": "0"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("install")) as system:
        system.start_hub()
        yield system


def _url(system: System, path: str = "") -> str:
    return f"http://{system.addresses['http']}{path}"


def _script(system: System) -> str:
    with urllib.request.urlopen(_url(system, "/install.sh")) as answer:
        text: str = answer.read().decode()
    return text


def _install(system: System, *options: str, script: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-s", "--", "--python", sys.executable, *options],
        input=script or _script(system), capture_output=True, text=True, check=False, timeout=250, env=_ENVIRONMENT,
    )  # fmt: skip


def _token(system: System) -> str:
    return system.api.devices.CreateJoinToken(pb.CreateJoinTokenRequest(uses=1, lifetime_seconds=600)).secret


def _exec_start(root: Path) -> list[str]:
    unit = (root / "etc/systemd/system/milonga-agent.service").read_text(encoding="utf-8")
    return shlex.split(next(line for line in unit.splitlines() if line.startswith("ExecStart=")).partition("=")[2])


def test_the_script_is_posix_shell_and_names_the_hub_as_it_was_reached(system: System) -> None:
    script = _script(system)
    assert f"HUB_URL='{_url(system)}'" in script
    assert f"HUB_GRPC='{system.addresses['grpc']}'" in script
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-s", "sh", "-"], input=script, text=True, check=True)


@pytest.mark.slow
def test_a_device_installs_joins_runs_upgrades_and_is_removed(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "device"
    options = ["--root", str(root), "--engines", ENGINE]

    trusted = system.folder / "hub" / "signing" / "metadata" / "1.root.json"
    options += ["--trusted-root", str(trusted)]
    done = _install(system, *options, "--token", _token(system), "--name", "board-1", "--label", "site=busan")
    assert done.returncode == 0, done.stderr
    command = _exec_start(root)
    pinned = root / "var/lib/milonga-agent/trusted-root.json"
    assert command[-2:] == ["--trusted-root", str(pinned)] and pinned.read_bytes() == trusted.read_bytes()
    listening, told = tmp_path / "notify", set()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(listening))
        supervisor.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(listening))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        system.agents["board-1"] = agent = Child("board-1", command, tmp_path / "agent.log")
        agent.start()

        def said() -> bool:
            try:
                told.add(supervisor.recv(100).decode())
            except BlockingIOError:
                return False
            return {"READY=1", "WATCHDOG=1"} <= told

        system.wait("the agent to say that it is ready and alive", said, 180)
        system.wait("the device to be online", lambda: _is_online(system, "board-1"), 180)
        agent.stop()
    device = system.api.devices.GetDevice(pb.GetDeviceRequest(name="board-1")).device
    assert dict(device.labels) == {"site": "busan"}
    assert [engine.name for engine in device.inventory.engines] == [ENGINE]

    identity = (root / "var/lib/milonga-agent/identity.json").read_bytes()
    again = _install(system, "--root", str(root))
    assert again.returncode == 0, again.stderr
    assert (root / "opt/milonga-agent/current").readlink() == Path("b"), "an upgrade goes beside what runs"
    assert ENGINE in again.stdout, "an upgrade keeps the engines"
    assert _exec_start(root) == command, "an upgrade keeps what is trusted"
    assert (root / "var/lib/milonga-agent/identity.json").read_bytes() == identity

    gone = _install(system, "--root", str(root), "--uninstall")
    assert gone.returncode == 0, gone.stderr
    assert not (root / "opt/milonga-agent").exists()
    assert (root / "var/lib/milonga-agent/identity.json").exists(), "only --purge removes the identity"
    del system.agents["board-1"]


def _is_online(system: System, name: str) -> bool:
    device = system.api.devices.GetDevice(pb.GetDeviceRequest(name=name)).device
    return bool(device.state == pb.DEVICE_STATE_ONLINE)


@pytest.mark.slow
def test_a_wheelhouse_is_all_that_a_device_without_internet_needs(system: System, tmp_path: Path) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    options = ["--root", str(tmp_path / "device"), "--engines", ENGINE, "--offline", "--token", _token(system)]
    without = _install(system, *options)
    assert without.returncode == 1
    assert f"milonga agent-bundle --platform {os.uname().machine} --python {python}" in without.stderr
    bundle = [sys.executable, "-m", "milonga_hub.cli", "agent-bundle", "--data-dir", str(system.folder / "hub")]
    bundle += ["--platform", os.uname().machine, "--python", python, "--engines", ENGINE]
    prepared = subprocess.run(bundle, capture_output=True, text=True, check=False, timeout=250)
    assert prepared.returncode == 0, prepared.stderr
    assert f"  curl -fsSL {_url(system)}/install.sh | sudo sh -s -- --token TOKEN --offline\n" in prepared.stdout

    done = _install(system, *options, "--name", "board-2")

    assert done.returncode == 0, done.stderr
    assert system.api.devices.GetDevice(pb.GetDeviceRequest(name="board-2")).device.name == "board-2"


@pytest.mark.slow
def test_a_wrong_token_is_named_and_nothing_becomes_current(system: System, tmp_path: Path) -> None:
    done = _install(system, "--root", str(tmp_path), "--engines", ENGINE, "--token", "mt_wrong" + _token(system)[-65:])
    assert done.returncode == 1
    assert "this join token is not one of this hub's" in done.stderr
    assert not (tmp_path / "opt/milonga-agent/current").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--python", "python-that-is-not-here"], "apt-get install python3 python3-venv"),
        ([], "give it with --token"),
        (["--engines", "x;reboot"], "--engines takes names"),
        (["--label", "a=b;reboot"], "--label takes KEY=VALUE"),
        (["--tokn", "T"], "there is no option --tokn"),
    ],
)
def test_what_cannot_go_on_says_what_to_do(system: System, tmp_path: Path, options: list[str], words: str) -> None:
    done = _install(system, "--root", str(tmp_path), *options)
    assert done.returncode == 1
    assert words in done.stderr


def test_an_old_python_and_one_without_venv_are_named(system: System, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    old = '#!/bin/sh\ncase "$*" in *version_info\\ *) exit 1 ;; esac\necho "Python 3.7.3"\n'
    bare = f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"\n'
    for program, words in ((old, "is Python 3.7.3, and the agent needs 3.9"), (bare, "-venv")):
        python.write_text(program, encoding="utf-8")
        python.chmod(0o755)
        done = _install(system, "--root", str(tmp_path / "device"), "--token", "T", "--python", str(python))
        assert done.returncode == 1
        assert words in done.stderr


def test_a_hub_that_does_not_answer_is_named(system: System, tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        script = _script(system).replace(_url(system), nobody)
        done = _install(system, "--root", str(tmp_path), "--token", "T", script=script)
    assert done.returncode == 1
    assert f"no hub answers at {nobody}" in done.stderr
