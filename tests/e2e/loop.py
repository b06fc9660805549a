"""The whole loop, step by step, on real processes and sockets. The demo shows it; the end-to-end test asserts on it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from milonga.v1 import devices_pb2, models_pb2, projects_pb2, rollouts_pb2, telemetry_pb2

from tests.e2e import digits
from tests.e2e.processes import System

ROOT = Path(__file__).parent.parent.parent
PROJECT_FILE = ROOT / "fleet_configs" / "projects" / "digits.yaml"
PROJECT = "digits"

# Those that this process may use: a container may have 2 and 3, or one alone.
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]

# Same host, unlike limits. What stands for which board is a label; the limits on threads, cores and memory are real.
AGENTS: Mapping[str, Sequence[str]] = {
    "orin": ("--simulate", "jetson-orin-nano", "--threads", "2", "--memory-mb", "2048"),
    "pi5": ("--simulate", "raspberry-pi-5", "--threads", "1", "--cpus", f"{_CORES[0]}", "--memory-mb", "1024"),
    "zero2": (
        "--simulate", "raspberry-pi-zero-2", "--threads", "1", "--cpus", f"{_CORES[-1]}", "--memory-mb", "512",
        "--engines", "onnxruntime",
    ),
}  # fmt: skip

Tell = Callable[[float, str], None]


class LoopFailed(RuntimeError):
    """The loop did not do what it must; the message says what."""


def classify(url: str, png: bytes) -> str:
    """Return the class that a device gives to a picture, asked by the Open Inference Protocol v2."""
    body = {
        "inputs": [
            {"name": "picture", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(png).decode("ascii")]}
        ],
        "outputs": [{"name": "class"}],
    }
    request = urllib.request.Request(
        f"{url}/v2/models/{PROJECT}/infer", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    return str(answer["outputs"][0]["data"][0])


@dataclass
class Traffic:
    """Sends field pictures to one device, round and round, and counts what comes back."""

    url: str
    pictures: list[digits.Picture]
    pause_seconds: float = 0.03
    answered: int = 0
    right: int = 0
    failed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def switch(self, pictures: list[digits.Picture]) -> None:
        """From now on the world looks like this."""
        self.pictures = pictures
        self.answered = self.right = 0

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _send(self) -> None:
        index = 0
        while not self._stop.wait(self.pause_seconds):
            pictures = self.pictures
            picture = pictures[index % len(pictures)]
            index += 1
            try:
                answer = classify(self.url, picture.png)
            except OSError:
                self.failed += 1
                continue
            self.answered += 1
            self.right += answer == picture.label


@dataclass(frozen=True)
class Scale:
    """How much of everything: the demo takes all, the test less."""

    known: int = 1000
    later: int = 497
    live: int = 300
    # Overrides of the project file, by section.
    spec: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Loop:
    def __init__(self, system: System, scale: Scale) -> None:
        self.system = system
        self.scale = scale
        self.digits = digits.load(scale.known, scale.later, scale.live)
        self.traffic: dict[str, Traffic] = {}
        self.first_run = ""
        self.second_run = ""
        self.drift_seconds = 0.0
        self.drifted_at = 0.0
        # From the drift's beginning until every device served what was trained for it; None where one kept what it had.
        self.recovery_seconds: float | None = None

    def cli(self, *arguments: str) -> Any:
        """Run a verb of the `milonga` command line as its user would and return its JSON."""
        command = [sys.executable, "-m", "milonga_hub.cli", "--hub", self.system.addresses["grpc"]]
        done = subprocess.run([*command, *arguments, "--json"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LoopFailed(f"milonga {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
        return json.loads(done.stdout)

    # a, b: the hub and its devices

    def start_hub(self, tell: Tell) -> None:
        addresses = self.system.start_hub()
        tell(1.0, f"dashboard http://{addresses['http']}, gRPC {addresses['grpc']}, MQTT {addresses['mqtt']}")

    def enrol(self, tell: Tell) -> None:
        for index, (name, options) in enumerate(AGENTS.items()):
            token = self.cli("tokens", "create")["secret"]
            self.system.start_agent(name, token, options)
            tell((index + 1) / (len(AGENTS) + 1), f"{name} joins")
        devices = self.system.wait("three devices online", self._all_online, 180)
        types = sorted({device.device_type for device in devices})
        tell(1.0, f"{len(devices)} devices of {len(types)} types: {', '.join(types)} (simulated)")

    def devices(self) -> list[devices_pb2.Device]:
        return list(self.system.api.devices.ListDevices(devices_pb2.ListDevicesRequest()).devices)

    def _all_online(self) -> list[devices_pb2.Device] | None:
        devices = self.devices()
        online = [device for device in devices if device.state == devices_pb2.DEVICE_STATE_ONLINE]
        return devices if len(online) == len(AGENTS) else None

    # c, d: pictures and project

    def import_known(self, tell: Tell) -> None:
        folder = digits.write(self.digits.known, self.system.folder / "pictures")
        self._import(folder, (), tell)

    def _import(self, folder: Path, options: Sequence[str], tell: Tell) -> None:
        said = self.cli("datasets", "import", str(folder), "--name", PROJECT, *options)
        version = said.get("dataset_version", said)
        tell(
            1.0,
            f"{version['name']}: {version.get('train_count')} to train, {version.get('validation_count')} to validate,"
            f" {version.get('added_count')} new, {len(version.get('rejected', []))} rejected",
        )

    def project_file(self) -> Path:
        """Write the project file as applied: the one in fleet_configs, with this scale's overrides."""
        document = yaml.safe_load(PROJECT_FILE.read_text(encoding="utf-8"))
        for section, values in self.scale.spec.items():
            document["spec"].setdefault(section, {}).update(values)
        path = self.system.folder / "digits.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    def apply(self, tell: Tell) -> None:
        said = self.cli("apply", "-f", str(self.project_file()))
        self.first_run = said["run"]["name"]
        tell(1.0, f"{PROJECT} applied, {self.first_run} started")

    # e to i: the run

    def watch(self, run: str) -> Iterator[projects_pb2.Run]:
        """Yield the run after each change, to its end."""
        for update in self.system.api.runs.WatchRun(projects_pb2.WatchRunRequest(name=run)):
            self.system.check()
            yield update.run

    def run(self, name: str) -> projects_pb2.Run:
        return self.system.api.runs.GetRun(projects_pb2.GetRunRequest(name=name)).run

    def follow(self, name: str, show: Callable[[projects_pb2.Run], None]) -> projects_pb2.Run:
        """Show the run until it ends; raise LoopFailed unless it succeeds."""
        last = self.run(name)
        for last in self.watch(name):
            show(last)
        if last.state != projects_pb2.RUN_STATE_SUCCEEDED:
            raise LoopFailed(f"{name} ended as {projects_pb2.RunState.Name(last.state)}: {last.error}")
        return last

    def ask_each_device(self, tell: Tell) -> None:
        """Ask each device for the class of real pictures; most answers must be right."""
        words = []
        for device in self.devices():
            if not device.serving_url:
                raise LoopFailed(f"{device.name} serves nothing: {self.run(self.first_run).outcome}")
            asked = self.digits.live[:60]
            right = sum(classify(device.serving_url, picture.png) == picture.label for picture in asked)
            if right < 0.75 * len(asked):
                raise LoopFailed(f"{device.name} got only {right} of {len(asked)} pictures right")
            words.append(f"{device.name} {right}/{len(asked)}")
        tell(1.0, "right answers: " + ", ".join(words))

    # j: traffic and telemetry

    def start_traffic(self) -> None:
        for device in self.devices():
            traffic = Traffic(device.serving_url, self.digits.live)
            traffic.start()
            self.traffic[device.name] = traffic

    def await_telemetry(self, tell: Tell, requests: int = 200) -> None:
        """Serve until the hub has seen this many requests of each device."""

        def seen() -> dict[str, int] | None:
            counts = dict.fromkeys(self.traffic, 0)
            for window in self.windows():
                counts[window.device] = counts.get(window.device, 0) + window.request_count
            done = min(counts.values(), default=0)
            tell(min(1.0, done / requests), f"{sum(counts.values())} requests seen in telemetry")
            return counts if done >= requests else None

        self.system.wait("telemetry of all devices", seen, 240)

    def windows(self) -> list[telemetry_pb2.TelemetryWindow]:
        request = telemetry_pb2.QueryTelemetryRequest(project=PROJECT, page_size=1000)
        return list(self.system.api.telemetry.QueryTelemetry(request).windows)

    # k: drift

    def drift(self, tell: Tell) -> None:
        """Let the world drift and wait until the hub sees it in telemetry alone."""
        request = telemetry_pb2.ListDriftEventsRequest(project=PROJECT)
        if self.system.api.telemetry.ListDriftEvents(request).drift_events:
            raise LoopFailed("drift was seen before there was any")
        field_pictures = digits.drifted(self.digits.live, seed=7)
        began = self.drifted_at = time.monotonic()
        for traffic in self.traffic.values():
            traffic.switch(field_pictures)

        def detected() -> list[telemetry_pb2.DriftEvent] | None:
            tell(0.5, f"drifted pictures for {time.monotonic() - began:.0f} s")
            return list(self.system.api.telemetry.ListDriftEvents(request).drift_events) or None

        events = self.system.wait("a drift event", detected, 360)
        self.drift_seconds = time.monotonic() - began
        for traffic in self.traffic.values():
            traffic.pause_seconds = 0.5  # The world stays drifted; the cores are wanted for retraining.
        signals = sorted({event.signal for event in events})
        tell(1.0, f"detected after {self.drift_seconds:.1f} s in {', '.join(signals)}")

    def label_new(self, tell: Tell) -> None:
        folder = digits.write(self.digits.later, self.system.folder / "new-pictures")
        self._import(folder, ("--append",), tell)

    def await_retraining(self, tell: Tell) -> None:
        def started() -> str | None:
            runs = self.system.api.runs.ListRuns(projects_pb2.ListRunsRequest(project=PROJECT)).runs
            drifted = [run for run in runs if run.trigger == projects_pb2.TRIGGER_DRIFT]
            return drifted[0].name if drifted else None

        self.second_run = self.system.wait("the policy to start a run", started, 240)
        tell(1.0, f"{self.second_run}: {self.run(self.second_run).reason}")

    def see_recovery(self, tell: Tell) -> None:
        """See whether every device serves the retrained version, right after the run that rolled it out has ended."""
        seconds = time.monotonic() - self.drifted_at
        version = self.version_of(self.second_run).name
        behind = [device.name for device in self.devices() if device.active_version != version]
        self.recovery_seconds = None if behind else seconds
        words = f"all devices but {', '.join(behind)}" if behind else "every device"
        tell(1.0, f"{version} serves on {words}, {seconds:.1f} s after the drift began")

    def stop_traffic(self) -> None:
        for traffic in self.traffic.values():
            traffic.stop()

    # l: the summary

    def version_of(self, run: str) -> models_pb2.ModelVersion:
        request = models_pb2.ListModelVersionsRequest(model=PROJECT)
        versions = self.system.api.models.ListModelVersions(request).model_versions
        return next(version for version in versions if version.run == run)

    def chosen_builds(self, version: str) -> dict[str, models_pb2.Build]:
        builds = self.system.api.builds.ListBuilds(models_pb2.ListBuildsRequest(model_version=version)).builds
        return {build.device_type: build for build in builds if build.chosen}

    def candidates(self, run: str) -> list[projects_pb2.Candidate]:
        request = projects_pb2.ListCandidatesRequest(run=run, page_size=1000)
        return list(self.system.api.runs.ListCandidates(request).candidates)

    def rollouts(self) -> list[rollouts_pb2.Rollout]:
        return list(self.system.api.rollouts.ListRollouts(rollouts_pb2.ListRolloutsRequest(project=PROJECT)).rollouts)

    def summary(self) -> list[dict[str, Any]]:
        """Return per device type what it ran before and what it runs now."""
        before, after = self.version_of(self.first_run), self.version_of(self.second_run)
        old, new = self.chosen_builds(before.name), self.chosen_builds(after.name)
        compared = next(stage for stage in self.run(self.second_run).stages if stage.name == "compare").metrics
        live = {device.device_type: device for device in self.devices()}
        rows = []
        for name, device in sorted(live.items()):
            updated = device.active_version == after.name
            build, now = (new[name], "challenger") if updated else (old[name], "champion")
            rows.append(
                {
                    "name": name,
                    "subnet": build.subnet,
                    "engine": build.engine,
                    "precision": build.precision,
                    "size_bytes": build.size_bytes,
                    "accuracy_before": compared.get(f"champion all {name}"),
                    "accuracy_after": compared.get(f"{now} all {name}"),
                    "accuracy_old_before": compared.get(f"champion old {name}"),
                    "accuracy_old_after": compared.get(f"{now} old {name}"),
                    "accuracy_new_before": compared.get(f"champion new {name}"),
                    "accuracy_new_after": compared.get(f"{now} new {name}"),
                    "predicted_ms": build.predicted_ms,
                    "measured_ms": build.measured_ms,
                    "version_before": before.name,
                    "version_after": device.active_version,
                }
            )
        return rows
