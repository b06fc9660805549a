"""Every verb: its help, its JSON, what it prints for people, and how it fails."""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import milonga_hub.cli
import numpy as np
import pytest
import typer
from milonga.v1 import devices_pb2 as pb
from milonga_compiler.bundle import verify_bundle
from milonga_hub.blobs import digest_of
from milonga_hub.builds.rules import FREE
from milonga_hub.cli.devices import _system
from milonga_hub.cli.output import WIDTH
from milonga_hub.cli.verbs import app
from milonga_hub.devices.models import Inventory
from milonga_hub.devices.service import Enrolment
from milonga_hub.install import reach
from milonga_hub.labelling.models import SampleView
from milonga_hub.projects.models import DriftTrigger, ProjectSpec, RetrainingPolicy, SamplingSpec
from milonga_hub.runs.models import RunState, StageState, Trigger
from milonga_hub.settings import Settings
from PIL import Image

from tests.agent.bundles import example
from tests.alerts.receivers import web_receiver
from tests.builds.test_service import _verified
from tests.certificates import Key
from tests.cli.conftest import Cli, Said, served
from tests.web.filled import HOSTILE, Services, pictures

Run = Callable[[list[str]], Said]

BUILD = "models/digits/versions/1/builds/raspberry-pi-5:onnxruntime:int8"
# Reading verbs, with the field that their JSON must have and something that people must see.
READING: dict[str, tuple[str, str]] = {
    "status": ("devices", "4 online of 4"),
    "tokens list": ("join_tokens", "site=busan"),
    "devices list": ("devices", "simulated"),
    "devices list -l role=canary": ("devices", "pi5-1"),
    "devices pending": ("join_requests", "wants-in"),
    "devices show pi5-1": ("device", "onnxruntime/int8"),
    "devices show pi5-2": ("refused_telemetry", "2 messages, the last"),
    "devices builds": ("device_builds", "not verified on hardware"),
    "types list": ("device_types", "not verified"),
    "types show raspberry-pi-5": ("name", "not verified on hardware"),
    "types known": ("known_types", "raspberry-pi-4-coral"),
    "types known jetson-orin-nano": ("known_types", "tensorrt/fp16, tensorrt/int8, onnxruntime/fp32"),
    "measurements list": ("measurements", "no measurements yet"),
    "datasets list": ("datasets", "digits"),
    "datasets versions digits": ("dataset_versions", "validation"),
    "projects list": ("projects", "all devices"),
    "projects usage": ("project_usages", "runs in 24 hours"),
    "projects show digits": ("project", "retrains from 1 drifted device(s) on"),
    "runs list": ("runs", "digits/2"),
    "runs show digits/2": ("run", "v2 is better than v1"),
    "runs show digits/1": ("run", "8 subnets measured on each of 3 types"),
    "runs watch digits/1": ("run", "v1 is better on both validation sets"),
    "runs candidates projects/digits/runs/2": ("candidates", "(chosen)"),
    "models list": ("models", "digits"),
    "models versions digits": ("model_versions", "projects/digits/runs/2"),
    "models show digits/1": ("model_version", "milonga build ls digits/1"),
    "build ls digits/1": ("builds", "verified, chosen"),
    f"build show {BUILD}": ("build", "manifest.json"),
    "build show digits/1/raspberry-pi-5/onnxruntime/int8": ("build", "latency: "),
    f"build show --log {BUILD}": ("text", "building onnxruntime/int8"),
    "build compare digits/1": ("builds", "chosen: the fastest"),
    f"build watch {BUILD}": ("build", "verified"),
    "devices steps pi5-1": ("steps", "commit"),
    "rollouts list": ("rollouts", "digits-2"),
    "rollouts show digits-2": ("rollout", "wave 2"),
    "rollouts watch digits-1": ("rollout", "succeeded"),
    "samples list digits": ("samples", "pi5-1"),
    "samples list digits --state all": ("samples", "refused"),
    "samples status digits": ("labelling", "0.0% to 79.3%"),
    "telemetry list": ("windows", "confidence"),
    "telemetry drift": ("drift_events", "brightness"),
    "telemetry accuracy digits": ("accuracy", "right answers"),
    "hubs ls": ("hubs", "leading"),
    "alerts list": ("alerts", "drifted"),
    "alerts silences": ("silences", "milonga alerts silence"),
    "alerts rules": ("rules", "device-offline"),
    "alerts channels": ("channels", "fleet_configs/alerts"),
    "whoami": ("caller", "by the local key"),
    # What tests before these made is in them.
    "users ls": ("accounts", ""),
    "api-keys ls": ("api_keys", ""),
    "audit ls": ("audit_entries", ""),
}
CHANGING = ("up", "schema", "doctor", "backup", "restore", "import tango", "export kfp", "apply", "diff", "tokens create", "devices label", "devices delete", "devices revoke", "devices approve", "devices refuse", "devices watch", "trust", "datasets import", "datasets export",
    "runs start", "runs cancel", "runs resume", "runs approve", "runs refuse", "rollouts create", "rollouts approve", "rollouts retry", "devices pin", "devices unpin", "devices logs", "devices diagnose", "devices restart", "devices profile", "devices upgrade", "rollouts roll-back", "rollouts pause", "rollouts resume", "rollouts abort",
    "telemetry watch", "bench latency", "models checkpoint", "models import", "models export", "keys init", "keys status", "keys generate", "keys export",
    "keys rotate", "alerts show", "alerts ack", "alerts silence", "alerts unsilence", "alerts delete-rule",
    "alerts delete-channel", "alerts test", "keys renew", "keys sign", "keys publish", "build start", "build cancel",
    "samples show", "samples label", "samples skip", "samples undo", "samples add", "samples discard", "samples export",
    "build override", "build choose", "build example", "login", "logout", "users add", "users set-role", "users password",
    "users remove", "users sign-out", "api-keys create", "api-keys delete", "broker config", "broker revoked", "plugins list", "blobs status", "blobs move", "blobs sweep", "migrate",
    "webhooks ls", "webhooks set", "webhooks redeliver", "webhooks test", "webhooks deliveries", "webhooks delete")  # fmt: skip
HUBLESS = (
    "backup",
    "doctor",
    "schema",
    "restore",
    "import tango",
    "plugins list",
    "up",
    "trust",
    "login",
    "logout",
    "bench latency",
    "migrate",
    "types known",
    *(verb for verb in CHANGING if verb.startswith(("keys ", "broker ", "blobs "))),
)
ONE_LINE = ("runs watch digits/1", "rollouts watch digits-1", f"build watch {BUILD}")


def _verb(command: str) -> str:
    words = command.split()
    return words[0] if words[0] in ("status", "trust", "login", "logout", "whoami") else " ".join(words[:2])


@pytest.mark.parametrize("verb", sorted({_verb(command) for command in READING} | set(CHANGING)))
def test_a_verb_explains_itself_and_speaks_json(run: Run, verb: str) -> None:
    said = run([*verb.split(), "--help"])
    assert (said.code, said.err) == (0, "")
    assert "Usage: milonga" in said.out
    assert verb in ("up", "schema") or "--json" in said.out
    assert verb in HUBLESS or "--hub" in said.out


def test_no_verb_is_forgotten_here(run: Run) -> None:
    folder = Path(milonga_hub.cli.__file__).parent
    decorated = 0
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                decorated += sum("command(" in ast.unparse(each) for each in node.decorator_list)
    assert decorated + 13 == len({_verb(command) for command in READING} | set(CHANGING))


def test_no_group_is_made_but_that_of_the_verb() -> None:
    line: Any = typer.main.get_command(app)
    groups = {name for name, verb in line.commands.data.items() if isinstance(verb, typer.Typer)}
    with pytest.raises(SystemExit):
        line(["devices", "list", "--help"])
    assert groups - {name for name, verb in line.commands.data.items() if isinstance(verb, typer.Typer)} == {"devices"}


@pytest.mark.parametrize("group", ["devices", "build", "webhooks"])
def test_ls_and_list_are_the_same(cli: Cli, group: str) -> None:
    assert cli(group, "ls", "--json").json == cli(group, "list", "--json").json


@pytest.mark.parametrize("command", READING)
def test_reading_verbs_print_one_json_object(cli: Cli, command: str) -> None:
    said = cli(*command.split(), "--json")
    assert READING[command][0] in said.json
    assert said.err == ""
    assert len(said.out.splitlines()) == 1 or command not in ONE_LINE


@pytest.mark.parametrize("command", READING)
def test_reading_verbs_print_for_people_in_100_columns(cli: Cli, command: str) -> None:
    said = cli(*command.split())
    assert (said.code, said.err) == (0, "")
    assert READING[command][1] in said.out
    assert max(len(line) for line in said.out.splitlines()) <= WIDTH


def test_a_build_that_was_asked_for_is_cancelled_from_the_command_line(new: Cli) -> None:
    new.hub.builds.orders.keep("models/digits/versions/1", "pi", {}, FREE, None)
    short = "digits/1/pi/openvino/int8"
    assert new("build", "start", "digits/1", "pi/openvino/int8").code == 0
    assert re.search("build +waits for its turn", new("build", "show", short).out)
    said = new("build", "cancel", short)
    assert "milonga build start digits/1 pi/openvino/int8" in said.out
    assert "–" not in new("build", "show", short).out, "what nobody knows is left out"
    assert not new.hub.builds.queued()
    refused = new("build", "cancel", short)
    assert refused.code == 4 and "milonga runs cancel" in refused.err
    assert "cancelled" in new("build", "show", short).out


def test_samples_are_labelled_exported_and_added_from_the_command_line(new: Cli, tmp_path: Path) -> None:
    new.hub.datasets.import_archive("digits", _archive(tmp_path), append=False, strict=False)
    new.hub.projects.apply("digits", ProjectSpec(dataset="digits", samples=SamplingSpec(enabled=True)))
    first, second = _received(new.hub, 2)
    assert new("samples", "label", first).code == 2
    assert new("samples", "label", first, "9").code == 4
    assert "'0', '1'" in new("samples", "label", first, "9").err
    assert new("samples", "label", first, "1", "--by", "ana", "--json").json["sample"]["decided_by"] == "ana (local)"
    late = new("samples", "label", first, "0", "--by", "ben")
    assert late.code == 4 and "ana (local) labelled it 1 on" in late.err and "--replace" in late.err
    assert new("samples", "label", first, "0", "--by", "ben", "--replace").code == 0
    shown = " ".join(new("samples", "show", first).out.split())
    assert "ana (local) labelled 1" in shown and "ben (local) labelled 0" in shown
    assert "ben (local)" in new("samples", "undo", first, "--by", "ana").err
    assert "waits again" in new("samples", "undo", first, "--by", "ana", "--replace").out
    assert new("samples", "label", first, "--accept").code == 0
    assert new("samples", "skip", first, "--by", "ana").code == 4
    assert new("samples", "skip", second).code == 0
    assert [
        each["label"] for each in new("samples", "ls", "digits", "--state", "labelled", "--json").json["samples"]
    ] == ["0"]
    assert "1 pictures" in new("samples", "export", "digits", str(tmp_path / "out")).out
    (written,) = (tmp_path / "out" / "0").iterdir()
    with Image.open(written) as found:
        assert found.size == (16, 16)
    assert len(json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]) == 1
    assert (
        new("samples", "add", "digits").out == "1 labelled pictures of devices are part of datasets/digits/versions/2\n"
    )
    assert "never changes" in new("samples", "undo", first).err
    assert new("samples", "discard", "digits", "--yes").out == "0 pictures are deleted\n"
    assert new("samples", "ls", "digits", "--state", "odd").code == 2


def test_a_data_set_is_exported_and_comes_back_as_it_was(new: Cli, tmp_path: Path) -> None:
    version = new.hub.datasets.import_archive("digits", _archive(tmp_path), append=False, strict=False)
    target = tmp_path / "out.zip"
    said = new("datasets", "export", "digits", "-o", str(target)).out
    assert said.startswith(f"{target}: ") and "datasets/digits/versions/1" in " ".join(said.split())
    told = new("datasets", "export", "digits/1", "--format", "folders", "-o", str(target), "--json").json
    assert (told["digest"], told["size_bytes"]) == (version.digest, target.stat().st_size)
    assert new.hub.datasets.import_archive("again", target, append=False, strict=True).digest == version.digest
    assert "milonga datasets versions" in new("datasets", "export", "digits/9").err
    refused = new("datasets", "export", "digits", "--format", "coco", "-o", str(tmp_path / "none.zip"))
    assert refused.code == 4 and "class folders" in refused.err and not (tmp_path / "none.zip").exists()
    assert new("datasets", "export", "digits", "--format", "png").code == 2


def _archive(folder: Path) -> Path:
    path = folder / "digits.zip"
    path.write_bytes(pictures(("0", "1")))
    return path


def _received(hub: Services, count: int) -> list[str]:
    """Return short names of pictures that a device sent."""
    _, token = hub.devices.create_join_token({})
    hub.devices.enrol(Enrolment(token, "pi", Inventory(machine_id="pi"), "0.1.0", False, {}, Key().request()))
    hub.devices.assign("pi", "sha256:" + "1" * 64, [], "models/digits/versions/1", "digits", "onnxruntime/fp32")
    found = []
    for seed in range(count):
        packed = io.BytesIO()
        random = np.random.default_rng(100 + seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(random).save(packed, "PNG")
        data = packed.getvalue()
        told = SampleView(
            name="", project="digits", digest=digest_of(data), device="pi", predicted="0", size_bytes=len(data)
        )
        sample = hub.samples.receive(hub.devices.get("pi"), told, data)
        found.append(f"digits/{sample.name.rpartition('/')[2]}")
    return found


def test_a_build_is_allowed_chosen_and_tried_from_the_command_line(new: Cli, tmp_path: Path) -> None:
    bundle = example(tmp_path, "onnxruntime").bundle
    new.hub.builds.record(
        "models/digits/versions/1", "pi",
        [{**_verified(tmp_path / "x"), "state": "BUILT", "directory": str(bundle.folder), "bundle": bundle.digest,
          "files": [vars(file) for file in bundle.files]}],
        None,
    )  # fmt: skip
    short = "digits/1/pi/onnxruntime/fp32"
    assert new("build", "choose", short).code == 4
    assert new("build", "override", short, "--reason", " ").code == 4
    said = new("build", "override", short, "--reason", "seen on my desk", "--by", "ana")
    assert said.code == 0 and f"milonga build choose {short}" in said.out
    assert new("build", "choose", short, "--json").json["build"]["chosen"] is True
    assert re.search("by ana \\(local\\), .* ago: seen on my desk", new("build", "show", short).out)
    said = new("build", "example", short, "-o", str(tmp_path / "try"))
    assert "pip install numpy pillow onnxruntime" in said.out and "PICTURE" in said.out
    assert verify_bundle(tmp_path / "try").digest == bundle.digest
    compile((tmp_path / "try" / "example.py").read_text(), "example.py", "exec")
    assert "exists already" in new("build", "example", short, "-o", str(tmp_path / "try")).err


def test_a_build_is_started_and_queued_from_the_command_line(new: Cli) -> None:
    new.hub.builds.orders.keep("models/digits/versions/1", "pi", {}, FREE, None)
    said = new("build", "start", "digits/1", "pi/onnxruntime/int8")
    assert said.code == 0 and "milonga build watch" in said.out
    (build,) = new.hub.builds.queued()
    running = {"state": StageState.RUNNING, "attempts": 1, "progress": 0.4, "message": "reading pictures"}
    new.hub.builds.change_stage(build.name, "build", **running)
    assert re.search("build +40%  reading pictures", new("build", "show", build.name).out)
    assert "is being built already" in new("build", "start", "digits/1", "pi/onnxruntime/int8").out
    new.hub.builds.end(build.name, "no network")
    watched = new("build", "watch", build.name)
    assert watched.code == 1 and "rejected" in watched.out


def test_a_manifest_is_printed_as_it_lies_in_the_bundle(cli: Cli) -> None:
    manifest = json.loads(cli("build", "show", "--manifest", BUILD).out)
    assert manifest["precision"] == "int8"
    assert json.loads(cli("build", "show", "--manifest", BUILD, "--json").json["json"]) == manifest


@pytest.mark.parametrize(
    ("command", "next_step"),
    [
        ("status", "milonga tokens create"),
        ("tokens list", "milonga tokens create"),
        ("devices list", "milonga tokens create"),
        ("types list", "milonga tokens create"),
        ("datasets list", "milonga datasets import"),
        ("projects list", "milonga apply"),
        ("projects usage", "milonga apply"),
        ("runs list", "milonga apply"),
        ("models list", "milonga apply"),
        ("build ls", "milonga apply"),
        ("rollouts list", "milonga rollouts create"),
        ("telemetry list", "milonga devices list"),
        ("telemetry drift", "milonga apply"),
        ("alerts list", "milonga alerts rules"),
        ("users ls", "milonga users add"),
        ("webhooks ls", "milonga webhooks set"),
    ],
)
def test_an_empty_list_says_what_to_do_next(empty: Cli, command: str, next_step: str) -> None:
    said = empty(*command.split())
    assert said.code == 0
    assert next_step in said.out
    assert empty(*command.split(), "--json").code == 0


def test_where_nothing_watches_for_drift_that_is_said(new: Cli) -> None:
    new.hub.projects.apply("yard", ProjectSpec())
    for words in ([], ["--project", "yard"]):
        assert "spec.retraining.drift.enabled: true" in new("telemetry", "drift", *words).out.replace("\n", " ")
    watching = RetrainingPolicy(drift=DriftTrigger(enabled=True))
    new.hub.projects.apply("yard", ProjectSpec(retraining=watching))
    for words in ([], ["--project", "yard"]):
        assert "no drift so far" in new("telemetry", "drift", *words).out


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("devices show nobody", 3, "milonga devices list"),
        ("types show nothing", 3, "milonga types list"),
        ("types known nothing", 3, "milonga types known"),
        ("runs show digits/99", 3, "milonga runs list"),
        ("runs watch digits/99", 3, "milonga runs list"),
        ("telemetry drift --project digit", 3, "there is no project 'digit'"),
        ("telemetry list --project digit", 3, "there is no project 'digit'"),
        ("telemetry list --device nobody", 3, "milonga devices list"),
        ("telemetry watch nobody", 3, "milonga devices list"),
        ("models show digits/99", 3, "no models/digits/versions/99"),
        ("models checkpoint digits/1", 3, "only detectors"),
        ("models export digits/9", 3, "no models/digits/versions/9"),
        ("models import digits nowhere.onnx", 3, "nowhere.onnx is not there"),
        ("apply -f nowhere.yaml", 3, "fleet_configs"),
        ("datasets import nowhere --name x", 3, "a folder of pictures for each class"),
        ("runs resume digits/1", 4, "only failed and cancelled"),
        ("rollouts pause digits-1", 4, "digits-1"),
        ("devices list -l ((", 4, "position"),
        ("devices upgrade", 2, "--selector"),
        ("devices upgrade -l site=mars", 4, "milonga devices list"),
        ("devices upgrade nobody", 3, "milonga devices list"),
        ("devices upgrade -l role=canary", 4, "no agent to upgrade to"),
        ("devices label pi5-1 nonsense", 2, "KEY=VALUE"),
        ("devices diagnose nobody", 3, "milonga devices list"),
        ("devices delete nobody", 3, "milonga devices list"),
        ("devices revoke nobody", 3, "milonga devices list"),
        ("rollouts abort nobody-1", 3, "milonga rollouts list"),
        ("rollouts roll-back nobody-1", 3, "milonga rollouts list"),
        ("rollouts create digits/1 --waves a,b", 2, "--waves"),
        ("build show digits/1/pi/onnxruntime/int8", 3, "milonga build ls"),
        ("build show digits/1", 2, "MODEL/NUMBER/TYPE/ENGINE/PRECISION"),
        ("build ls nobody/9", 3, "nobody"),
        ("build compare nobody/9", 3, "nobody"),
        ("build compare digits/1 --type raspberry", 3, "it has for: "),
        ("build start digits/1 onnxruntime/int8", 2, "TYPE/ENGINE/PRECISION"),
        ("build start digits/1 raspberry-pi-5/tvm/fp32 --tune 10x", 2, "90s, 10m or 2h"),
        ("build start digits/1 raspberry-pi-5/tvm/fp32 --tune-on hub", 2, "--tune 10m"),
        ("build start digits/1 raspberry-pi-5/openvino/int8 --tune 10m", 4, "only tvm is"),
        ("build start digits/1 raspberry-pi-5/magic/int8", 4, "nothing builds magic/int8"),
        ("build start digits/1 raspberry-pi-5/openvino/int8", 3, "milonga runs start"),
        (f"build override {BUILD} --reason because", 4, "it needs no override"),
        (f"build override {BUILD}", 2, "--reason"),
        ("alerts show nothing", 3, "milonga alerts list"),
        ("alerts test pager", 3, "milonga alerts channels"),
        ("alerts delete-rule drift", 4, "enabled: false"),
        ("alerts silence --why tired", 2, "--rule"),
        ("alerts silence --rule drift --for ever --why tired", 2, "30m"),
        ("alerts silence --rule drift --for 0m --why tired", 2, "30m"),
        ("alerts silence --rule drfit --why tired", 3, "milonga alerts rules"),
        ("alerts silence --subject pi5-1 --why tired", 4, "devices/pi-3"),
        ("telemetry list --minutes 1e300", 2, "--minutes"),
        ("telemetry accuracy nothing", 3, "there is no project 'nothing'"),
        ("webhooks set chat --url ftp://here", 4, "milonga: 'ftp://here' is not the address of a webhook"),
        ("devices nonsense", 2, "No such command"),
        ("up --http-port 99999", 2, "--http-port"),
        ("up --heartbeat-seconds 0", 2, "--heartbeat-seconds"),
    ],
)
def test_failures_have_their_exit_codes_and_say_what_to_do(cli: Cli, command: str, code: int, words: str) -> None:
    said = cli(*command.split())
    assert (said.code, said.out) == (code, "")
    assert words in said.err
    assert "Traceback" not in said.err


def test_a_hub_that_is_not_there_is_told_from_other_failures(run: Run) -> None:
    for arguments in (
        ["--hub", "127.0.0.1:1", "devices", "list"],
        ["devices", "ls", "--hub", "127.0.0.1:1", "--json"],
    ):
        said = run(arguments)
        assert (said.code, said.out) == (5, "")
        assert "127.0.0.1:1" in said.err
        assert "milonga up" in said.err


def test_the_hub_is_found_by_the_environment(cli: Cli, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILONGA_HUB", cli.address)
    assert len(run(["devices", "list", "--json"]).json["devices"]) == 4


def test_every_setting_is_a_flag_of_up(run: Run) -> None:
    said = run(["up", "--help"]).out
    assert [name for name in Settings.model_fields if f"--{name.replace('_', '-')}" not in said] == []


def test_control_characters_never_reach_the_terminal(cli: Cli) -> None:
    cli.hub.runs.change("projects/digits/runs/1", reason="\x1b[2Jgone [red]no[/red]")
    said = cli("runs", "show", "digits/1")
    assert "\x1b" not in said.out
    assert "[red]no[/red]" in said.out
    assert HOSTILE in cli("runs", "show", "digits/2").out.replace("\n", " ")


def test_lists_bring_all_pages_and_limits_hold(cli: Cli) -> None:
    assert len(cli("telemetry", "list", "--limit", "0", "--json").json["windows"]) == 96
    assert len(cli("telemetry", "list", "--limit", "60", "--json").json["windows"]) == 60
    assert len(cli("runs", "list", "--limit", "1", "--json").json["runs"]) == 1


def test_a_token_is_made_and_its_secret_is_in_the_json(new: Cli) -> None:
    said = new("tokens", "create", "--label", "site=busan", "--uses", "3", "--json").json
    assert said["secret"]
    assert (said["join_token"]["labels"], said["join_token"]["uses_left"]) == ({"site": "busan"}, 3)
    for_people = new("tokens", "create").out
    secret = for_people.rpartition("--join-token ")[2].strip()
    assert f"\n{secret}\n" in for_people, "on a line of its own, to copy"


def test_commands_for_devices_bear_the_hubs_own_address(new: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    port = new.address.rpartition(":")[2]
    new.hub.hubs.listens_at("127.0.0.1:9090", f"127.0.0.1:{port}", "127.0.0.1:8444")
    here = new("tokens", "create").out
    assert "milonga up --host 0.0.0.0" in here and "http://127.0.0.1:9090/install.sh" in here
    monkeypatch.setattr(reach, "_outward_address", lambda: "192.0.2.7")
    new.hub.hubs.listens_at("0.0.0.0:9090", f"0.0.0.0:{port}", "0.0.0.0:8444")
    there = new("tokens", "create").out
    assert "--host 0.0.0.0" not in there and "http://192.0.2.7:9090/install.sh" in there
    assert f"milonga-agent run --hub 192.0.2.7:{port} --join-token" in there
    with served(new.hub, "https") as address:
        encrypted = Cli(address, new.hub, new.run)("tokens", "create").out
    assert "https://192.0.2.7:9090/install.sh" in encrypted


def test_labels_and_deletion_of_devices(cli: Cli) -> None:
    assert cli("devices", "label", "zero2-1", "rack=1", "--json").json["device"]["labels"]["rack"] == "1"
    assert "rack" not in cli("devices", "label", "zero2-1", "rack-").out
    assert cli("devices", "delete", "nobody", "--yes").code == 3


def _write_pictures(folder: Path) -> Path:
    archive = folder / "pictures.zip"
    archive.write_bytes(pictures(("a", "b")))
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder / "pictures")
    return archive


def test_a_folder_and_an_archive_become_versions(new: Cli, tmp_path: Path) -> None:
    archive = _write_pictures(tmp_path)
    (tmp_path / "pictures" / ".hidden").write_text("no picture")
    first = new("datasets", "import", str(tmp_path / "pictures"), "--name", "mine", "--json").json["dataset_version"]
    assert (first["name"], first["classes"], len(first["rejected"])) == ("datasets/mine/versions/1", ["a", "b"], 1)
    second = new("datasets", "import", str(archive), "--name", "mine", "--append")
    assert second.code == 0
    assert "left out: a/broken" in second.out and "(from class folders)" in second.out
    assert new("datasets", "import", str(archive), "--name", "mine", "--strict").code == 4


def test_a_project_is_compared_applied_and_run(new: Cli, tmp_path: Path) -> None:
    new("datasets", "import", str(_write_pictures(tmp_path)), "--name", "mine")
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"kind": "Project", "name": "mine", "spec": {"dataset": "mine"}}))
    assert "would change" in new("diff", "-f", str(file)).out
    assert new("apply", "-f", str(file), "--dry-run", "--json").json.get("run") is None
    assert new("projects", "show", "mine").code == 3
    assert new("apply", "-f", str(file), "--json").json["run"]["name"] == "projects/mine/runs/1"
    assert "nothing to do" in new("apply", "-f", str(file)).out
    file.write_text(json.dumps({"kind": "Project", "name": "mine", "spec": {"dataset": "mine", "trainign": {}}}))
    wrong = new("apply", "-f", str(file))
    assert wrong.code == 4
    assert "training" in wrong.err


def test_runs_are_started_watched_cancelled_and_resumed(new: Cli, tmp_path: Path) -> None:
    new("datasets", "import", str(_write_pictures(tmp_path)), "--name", "mine")
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"kind": "Project", "name": "mine", "spec": {"dataset": "mine"}}))
    assert "milonga runs start mine" in new("apply", "-f", str(file), "--no-run").out
    assert new("runs", "start", "mine", "--json").json["run"]["state"] == "RUN_STATE_QUEUED"
    assert "cancelled" in new("runs", "cancel", "mine/1").out
    assert new("runs", "watch", "mine/1").code == 1
    assert new("runs", "resume", "mine/1", "--json").json["run"]["state"] == "RUN_STATE_QUEUED"
    new.hub.runs.end("projects/mine/runs/1", RunState.SUCCEEDED, outcome="done")
    assert new("runs", "watch", "mine/1", "--json").code == 0


def test_runs_that_wait_for_approval_are_approved_or_refused(new: Cli, tmp_path: Path) -> None:
    new("datasets", "import", str(_write_pictures(tmp_path)), "--name", "mine")
    file = tmp_path / "mine.yaml"
    policy = {"schedule": "0 3 * * sat", "quiet_hours": ["08:00-18:00"], "max_runs_per_week": 2, "approval": True}
    file.write_text(json.dumps({"kind": "Project", "name": "mine", "spec": {"dataset": "mine", "retraining": policy}}))
    new("apply", "-f", str(file), "--no-run")
    shown = new("projects", "show", "mine").out
    assert all(
        word in shown for word in ("0 3 * * sat (UTC)", "08:00-18:00", "at most 2 a week", "milonga runs approve")
    )
    for _ in range(2):
        new.hub.runs.start("mine", Trigger.SCHEDULE, "due since Saturday")
    listed = " ".join(new("runs", "list").out.split())
    assert "awaiting approval" in listed and "because due since Saturday" in listed
    assert "let it begin: milonga runs approve projects/mine/runs/1" in new("runs", "show", "mine/1").out
    assert new("runs", "approve", "mine/1", "--json").json["run"]["state"] == "RUN_STATE_QUEUED"
    assert "refused" in new("runs", "refuse", "mine/2").out
    assert "does not wait for approval: it is cancelled (refused" in new("runs", "approve", "mine/2").err.replace(
        "\n", " "
    )


def test_samples_status_says_which_devices_have_sent_what_they_may(cli: Cli) -> None:
    before = cli.hub.projects.get("digits").spec
    few = before.samples.model_copy(update={"pictures_per_day": 3})
    cli.hub.projects.apply("digits", before.model_copy(update={"samples": few}))
    cli.hub.samples.offer("pi5-1", "digits", [], 0)
    said = " ".join(cli("samples", "status", "digits").out.split())
    told = cli("samples", "status", "digits", "--json").json["labelling"]
    cli.hub.projects.apply("digits", before)
    assert "at most 3 pictures and 20.0 MB in 24 hours leave each device" in said
    assert "1 device(s) have sent what they may in 24 hours" in said and "pi5-1 9 of 3" in said and "in 24 h" in said
    assert (told["spent"][0]["device"], told["spent_count"], told["pictures_per_day"]) == ("pi5-1", 1, 3)
    assert "have sent what they may" not in cli("samples", "status", "digits").out


def test_a_project_says_which_run_is_due_and_what_holds_it_back(new: Cli, tmp_path: Path) -> None:
    new("datasets", "import", str(_write_pictures(tmp_path)), "--name", "mine")
    file = tmp_path / "mine.yaml"
    spec = {"dataset": "mine", "retraining": {"new_labels": 1}}
    file.write_text(json.dumps({"kind": "Project", "name": "mine", "spec": spec}))
    new("apply", "-f", str(file))
    assert "due_run" not in new("projects", "show", "mine", "--json").json
    (tmp_path / "more.zip").write_bytes(pictures(("a", "b"), seed=1))
    new("datasets", "import", str(tmp_path / "more.zip"), "--name", "mine", "--append")
    said = " ".join(new("projects", "show", "mine").out.split())
    assert "which waits: run 1 has not ended yet" in said
    new.hub.runs.end("projects/mine/runs/1", RunState.SUCCEEDED)
    due = new("projects", "show", "mine", "--json").json["due_run"]
    assert (due["trigger"], due["held_back_by"]) == ("TRIGGER_NEW_LABELS", "cool-down of 3600 s")
    until = datetime.fromisoformat(due["held_back_until"])
    said = " ".join(new("projects", "show", "mine").out.split())
    assert f"which waits until {until:%Y-%m-%d %H:%M} UTC: cool-down of 3600 s" in said


def test_what_a_device_does_not_tell_of_its_system_is_left_out() -> None:
    assert _system(pb.Inventory(os="simulated")) == "simulated"
    told = pb.Inventory(os="Debian 12", kernel="6.1", python="3.11.2")
    assert _system(told) == "Debian 12, kernel 6.1, Python 3.11.2"


def test_a_device_is_pinned_to_what_there_is(cli: Cli) -> None:
    refused = cli("devices", "pin", "pi5-1", "digits/99")
    assert refused.code == 3 and "there is no models/digits/versions/99" in refused.err
    assert "keeps models/digits/versions/1" in cli("devices", "pin", "pi5-1", "digits/1").out
    assert cli("devices", "unpin", "pi5-1").code == 0


def test_rollouts_are_created_paused_resumed_and_aborted(cli: Cli) -> None:
    made = cli("rollouts", "create", "digits/1", "--waves", "0.5,0.5", "--soak-seconds", "1", "--json").json["rollout"]
    assert made["spec"]["waves"] == [0.5, 0.5]
    assert cli("rollouts", "pause", made["id"], "--json").json["rollout"]["state"] == "ROLLOUT_STATE_PAUSED"
    assert f"milonga rollouts resume {made['id']}" in cli("rollouts", "show", made["id"]).out.replace("\n", " ")
    assert cli("rollouts", "resume", made["id"], "--json").json["rollout"]["state"] == "ROLLOUT_STATE_RUNNING"
    assert cli("rollouts", "abort", made["id"], "--yes").code == 0
    shadowed = cli("rollouts", "create", "digits/1", "--shadow-minutes", "5", "--shadow-go-on", "--dry-run", "--json")
    shadow = shadowed.json["rollout"]["spec"]["shadow"]
    assert (shadow["minutes"], shadow["min_requests"], shadow["too_few_requests"][-5:]) == (5.0, 50, "GO_ON")
    rehearsed = cli("rollouts", "create", "digits/1", "--window", "02:00-03:00", "--max-concurrent", "2", "--dry-run")
    assert "not begun" in rehearsed.out and "nothing was done" in rehearsed.out
    waiting = cli("rollouts", "create", "digits/1", "--approval", "--json").json["rollout"]
    assert waiting["spec"]["approval"]
    assert f"milonga rollouts approve {waiting['id']}" in cli("rollouts", "show", waiting["id"]).out.replace("\n", " ")
    assert cli("rollouts", "approve", waiting["id"], "--json").json["rollout"]["state"] == "ROLLOUT_STATE_RUNNING"
    assert "no device of rollout" in cli("rollouts", "retry", waiting["id"]).err
    assert cli("rollouts", "abort", waiting["id"], "--yes").code == 0
    assert cli("rollouts", "watch", made["id"]).code == 1


def test_nothing_is_done_unless_a_person_says_yes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = cli("rollouts", "create", "digits/1", "--json").json["rollout"]["id"]
    for command, stays in (
        ("devices delete zero2-1", "zero2-1 stays"),
        ("devices revoke zero2-1", "zero2-1 stays"),
        (f"rollouts abort {rollout}", f"{rollout} goes on"),
        (f"rollouts roll-back {rollout}", f"{rollout} stays as it is"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        said = cli(*command.split())
        assert (said.code, said.err) == (4, f"milonga: {stays}\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert cli("rollouts", "abort", rollout).code == 0


def test_alerts_are_shown_acknowledged_and_silenced(cli: Cli) -> None:
    (alert,) = (one for one in cli("alerts", "list", "--json").json["alerts"] if one["rule"] == "drift")
    assert "milonga runs start digits" in cli("alerts", "show", alert["id"]).out.replace("\n", " ")
    assert "acknowledged by ana (local)" in cli("alerts", "ack", alert["id"], "--by", "ana", "--note", "at work").out
    assert cli("alerts", "show", alert["id"], "--json").json["alert"]["note"] == "at work"
    made = cli("alerts", "silence", alert["id"], "--for", "3d", "--why", "a fair", "--by", "ana", "--json").json[
        "silence"
    ]
    assert (made["rule"], made["subject"]) == ("drift", "devices/pi5-1")
    assert "a fair" in cli("alerts", "silences").out
    assert cli("alerts", "unsilence", made["id"]).code == 0


def test_an_alert_says_by_what_it_was_resolved(new: Cli, tmp_path: Path) -> None:
    _, token = new.hub.devices.create_join_token({})
    new.hub.devices.enrol(Enrolment(token, "pi", Inventory(machine_id="pi"), "0.1.0", False, {}, Key().request()))
    file = tmp_path / "away.yaml"
    file.write_text(json.dumps({"kind": "AlertRule", "name": "away", "spec": {"watch": "DEVICE_OFFLINE"}}))
    new("apply", "-f", str(file))
    new.hub.alerts.look()
    (alert,) = new("alerts", "list", "--json").json["alerts"]
    new("alerts", "delete-rule", "away")
    new.hub.alerts.look()
    assert "ago, its rule was deleted" in new("alerts", "show", alert["id"]).out


def test_rules_and_channels_are_applied_from_files_and_tested(new: Cli, tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    with web_receiver() as receiver:
        spec = {"webhook": {"url": receiver.url, "secret": "top secret"}}
        file.write_text(json.dumps({"kind": "AlertChannel", "name": "pager", "spec": spec}))
        assert "would change" in new("diff", "-f", str(file)).out
        assert "milonga alerts test pager" in new("apply", "-f", str(file)).out
        assert "nothing to do" in new("apply", "-f", str(file)).out
        assert "HTTP 200" in new("alerts", "test", "pager").out
    assert len(receiver.bodies) == 1
    assert "top secret" not in new("alerts", "channels", "--json").out
    failed = new("alerts", "test", "pager")
    assert (failed.code, "cannot be reached" in failed.err) == (4, True)
    rule = {"watch": "ERROR_RATE", "threshold": 0, "for_seconds": 0, "channels": ["pager"], "enabled": False}
    file.write_text(json.dumps({"kind": "AlertRule", "name": "any-error", "spec": rule}))
    assert new("apply", "-f", str(file), "--json").json["rule"]["spec"]["threshold"] == 0
    assert "pager" in new("alerts", "rules").out
    assert "any-error" in new("alerts", "delete-channel", "pager").err
    assert new("alerts", "delete-rule", "any-error").code == new("alerts", "delete-channel", "pager").code == 0


def test_keys_are_moved_sign_elsewhere_and_come_into_force(run: Run, tmp_path: Path) -> None:
    hub = ["--data-dir", str(tmp_path / "hub")]
    assert run(["keys", "init", "--keys", "2", "--threshold", "2", "--json", *hub]).json["made"]
    moved = run(["keys", "export", "root", str(tmp_path / "stick, red"), "--json", *hub]).json["moved"]
    assert [Path(path).parent for path in moved] == 2 * [tmp_path / "stick, red"]
    exported = run(["keys", "export", "targets", str(tmp_path / "stick"), *hub]).out.replace("\n", " ")
    assert "without 2 of them" in exported and "give each to somebody else" in exported
    assert not run(["keys", "rotate", "targets", "--json", *hub]).json["in_force"]
    waiting = run(["keys", "status", "--json", *hub]).json["waiting"]
    told = run(["keys", "status", *hub]).out.replace("\n", " ")
    assert "lacks 2 signatures" in told
    assert f"keys sign {waiting[0]} --key {Path(moved[0]).name} --key {Path(moved[1]).name}" in told
    signed = run(["keys", "sign", *waiting, "--key", moved[0], "--key", moved[1]]).out.replace("\n", " ")
    assert f"with {Path(moved[0]).stem} and {Path(moved[1]).stem}" in signed and "root version 2" in signed
    no_metadata = tmp_path / "no.json"
    no_metadata.write_text("none", encoding="utf-8")
    assert "no.json: this is not TUF metadata" in run(["keys", "sign", str(no_metadata), "--key", moved[0]]).err
    assert run(["keys", "publish", *waiting, "--json", *hub]).json == {"in_force": True, "waiting": []}
    assert run(["keys", "export", "timestamp", str(tmp_path), *hub]).code != 0
