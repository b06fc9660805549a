"""Bad input gets a clear message and exit code, and nothing else stops. Real hub, real agents, the real command line."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import digits
from tests.e2e.loop import AGENTS, Loop, Scale
from tests.e2e.processes import QUICKLY, System

pytestmark = pytest.mark.timeout(500)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """Return a hub with one agent, "pi5"."""
    options = ("--heartbeat-seconds", "1", "--telemetry-seconds", "1", *QUICKLY)
    with System(tmp_path_factory.mktemp("bad"), options) as system:
        loop = Loop(system, Scale(known=300, later=1, live=1))
        system.start_hub()
        system.start_agent("pi5", loop.cli("tokens", "create")["secret"], AGENTS["pi5"])
        system.wait("the agent to be online", lambda: any(device.state == 1 for device in loop.devices()), 90)
        yield loop
        # Whatever was tried, both must still be there.
        system.check()
        assert [device.name for device in loop.devices()] == ["pi5"]


def _milonga(loop: Loop, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milonga_hub.cli", "--hub", loop.system.addresses["grpc"], *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def _agent(loop: Loop, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milonga_agent", "run", "--hub", loop.system.addresses["grpc"]]
    command += ["--data-dir", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def _up(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milonga_hub.cli", "up", "--data-dir", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def _words(text: str) -> str:
    return " ".join(text.split())


def _is_refused(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    assert (done.returncode, said in _words(done.stderr)) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_token_is_refused(loop: Loop, tmp_path: Path) -> None:
    _is_refused(_agent(loop, tmp_path, "--name", "a", "--join-token", "nonsense"), 3, "milonga tokens create")


def test_a_used_token_is_refused(loop: Loop, tmp_path: Path) -> None:
    token = loop.cli("tokens", "create")["secret"]
    first = subprocess.run(
        [sys.executable, "-m", "milonga_agent", "enrol", "--hub", loop.system.addresses["grpc"], "--name", "once",
         "--data-dir", str(tmp_path / "a"), "--join-token", token, "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    _is_refused(_agent(loop, tmp_path / "b", "--name", "twice", "--join-token", token), 3, "milonga tokens create")
    assert _milonga(loop, "devices", "delete", "once", "--yes").returncode == 0


def test_a_device_that_was_deleted_is_told_and_keeps_running(loop: Loop) -> None:
    system = loop.system
    agent = system.start_agent("gone", loop.cli("tokens", "create")["secret"])
    system.wait("the agent to be online", lambda: any(d.name == "gone" and d.state == 1 for d in loop.devices()), 90)
    assert _milonga(loop, "devices", "delete", "gone", "--yes").returncode == 0
    system.wait("the agent to say so", lambda: "enrol it again" in agent.log.read_text(), 90)
    agent.check()
    assert system.agents.pop("gone").stop() == 0


def test_no_token_at_all_says_where_to_get_one(loop: Loop, tmp_path: Path) -> None:
    _is_refused(_agent(loop, tmp_path, "--name", "a"), 3, "milonga tokens create")


def test_a_second_agent_with_the_same_name_is_refused(loop: Loop, tmp_path: Path) -> None:
    token = loop.cli("tokens", "create")["secret"]
    done = _agent(loop, tmp_path, "--name", "pi5", "--join-token", token)
    _is_refused(done, 3, "--name")


def test_a_second_agent_in_the_same_folder_is_refused(loop: Loop) -> None:
    _is_refused(_agent(loop, loop.system.folder / "pi5", "--name", "pi5"), 5, "--data-dir")


def test_an_agents_port_in_use_is_named(loop: Loop, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        _is_refused(_agent(loop, tmp_path, "--name", "a", "--serve-port", port), 5, f"port {port} is in use")


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--device-port", "--mqtt-port"])
def test_a_hubs_port_in_use_is_named_with_its_option(option: str, tmp_path: Path) -> None:
    others = [one for one in ("--http-port", "--grpc-port", "--device-port", "--mqtt-port") if one != option]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = _up(tmp_path, option, port, *(part for one in others for part in (one, "0")))
    assert done.returncode not in (0, None) and option in done.stderr and port in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_hubs_folder_in_use_is_named(loop: Loop) -> None:
    done = _up(
        loop.system.folder / "hub", "--http-port", "0", "--grpc-port", "0", "--device-port", "0", "--mqtt-port", "0"
    )
    assert done.returncode != 0 and "another hub" in _words(done.stderr) and "Traceback" not in done.stderr


def test_a_folder_without_pictures_and_a_single_class_are_refused(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _is_refused(_milonga(loop, "datasets", "import", str(tmp_path / "empty"), "--name", "bad"), 4, "one folder")
    ones = [picture for picture in loop.digits.known if picture.label == "1"]
    folder = digits.write(ones, tmp_path / "ones")
    _is_refused(_milonga(loop, "datasets", "import", str(folder), "--name", "bad"), 4, "only one class")


def test_an_empty_class_is_named(loop: Loop, tmp_path: Path) -> None:
    folder = digits.write(loop.digits.known, tmp_path / "pictures")
    (folder / "eleven").mkdir()
    _is_refused(_milonga(loop, "datasets", "import", str(folder), "--name", "bad"), 4, "'eleven' has no usable picture")


def test_a_corrupt_picture_is_left_out_and_shown(loop: Loop, tmp_path: Path) -> None:
    folder = digits.write(loop.digits.known, tmp_path / "pictures")
    (folder / "3" / "broken.png").write_bytes(b"\x89PNG no")
    done = _milonga(loop, "datasets", "import", str(folder), "--name", "digits")
    assert done.returncode == 0, done.stderr
    assert "broken.png" in done.stdout + done.stderr
    strict = _milonga(loop, "datasets", "import", str(folder), "--name", "bad", "--strict")
    _is_refused(strict, 4, "broken.png")


def test_an_unknown_key_is_named_with_its_line(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "project.yaml"
    path.write_text("kind: Project\nname: bad\nspec:\n  dataset: digits\n  training: {epoch: 3}\n")
    done = _milonga(loop, "apply", "-f", str(path))
    # Long paths are wrapped.
    assert done.returncode != 0 and "project.yaml:5" in "".join(done.stderr.split()), done.stderr
    assert "epochs" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_impossible_limit_names_the_fastest_subnet(loop: Loop, tmp_path: Path) -> None:
    folder = digits.write(loop.digits.known, tmp_path / "pictures")
    assert _milonga(loop, "datasets", "import", str(folder), "--name", "digits").returncode == 0
    path = tmp_path / "project.yaml"
    path.write_text(
        "kind: Project\nname: impossible\nspec:\n  dataset: digits\n  limits: [{latency_ms: 0.000001}]\n"
        "  training: {space: resnet, epochs: 1, resolution_px: 16}\n"
        "  search: {measured_subnets: 4, further_measurements: 0, evaluated_subnets: 8, population: 8, generations: 2}\n"
        "  build: {targets: [onnxruntime/fp32]}\n"
    )
    run = loop.cli("apply", "-f", str(path))["run"]["name"]
    done = _milonga(loop, "runs", "watch", run)
    shown = loop.run(run)
    assert done.returncode != 0
    assert "the fastest found is 12 px" in shown.error and "raise the limits" in shown.error
