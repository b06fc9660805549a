"""A hub's services on SQLite after a busy day: made through the services themselves, so that no row is impossible."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from milonga.embeddings import EMBEDDING
from milonga.pictures import INPUT_STATISTICS
from milonga_hub import traces
from milonga_hub.accounts.service import AccountService
from milonga_hub.alerts.facts import Observer
from milonga_hub.alerts.service import AlertService
from milonga_hub.blobs import BlobStore, digest_of
from milonga_hub.blobs.watching import BlobWatch
from milonga_hub.builds.device_tuning import DeviceTunings
from milonga_hub.builds.rules import FREE
from milonga_hub.builds.service import BuildService
from milonga_hub.builds.sessions import TuningSessions
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database, utc_now
from milonga_hub.devices.models import DeviceBuild, DeviceBuildState, Engine, Inventory, StepLog
from milonga_hub.devices.rules_neighbours import Cache
from milonga_hub.devices.service import DeviceService, Enrolment
from milonga_hub.devices.values import AgentStatus, Download, Hello
from milonga_hub.events import EventBus
from milonga_hub.hubs.service import Alone, Hubs
from milonga_hub.labelling.intake import SampleIntake
from milonga_hub.labelling.models import SampleReason, SampleView
from milonga_hub.labelling.service import LabellingService
from milonga_hub.learning.judged import examples, of_answers
from milonga_hub.models.imports import ModelImports
from milonga_hub.models.service import ModelService
from milonga_hub.projects.models import DriftTrigger, Limits, ProjectSpec, RetrainingPolicy, RolloutSpec, SamplingSpec
from milonga_hub.projects.service import ProjectService
from milonga_hub.quotas.service import QuotaService
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.runs.models import Candidate, ComparedGroup, Comparison, Run, RunState, Stage, StageState, Trigger
from milonga_hub.runs.service import RunService
from milonga_hub.runs.triggers import Triggers
from milonga_hub.settings import Settings
from milonga_hub.telemetry.figures import Histogram, Percentiles
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.webhooks.service import WebhookService
from milonga_hub.webhooks.sight import Sight
from PIL import Image

from tests.accounts.quick import quick_passwords
from tests.builds.networks import network
from tests.certificates import Key
from tests.databases import database_setting
from tests.signing.ready import signing
from tests.telemetry.windows import histogram, plausible_counts, reference_of

HOSTILE = "<script>alert('milonga')</script>"
BOARDS = {
    "orin-1": "jetson-orin-nano",
    "pi5-1": "raspberry-pi-5",
    "pi5-2": "raspberry-pi-5",
    "zero2-1": "raspberry-pi-zero-2",
}
PROJECT = "digits"
LIMITS = {"jetson-orin-nano": 2.0, "raspberry-pi-5": 4.0, "raspberry-pi-zero-2": 6.0}

# Of validation pictures, how many lie near the centres of cells, and how many far from them.
_NEAR, _FAR = [210, 180, 150, 140, 120, 100], [20, 18, 16, 16, 16, 14]


class Services:
    """All services of a hub, empty; what pages and REST take for a hub."""

    grpc_port = 8443

    def __init__(self, folder: Path) -> None:
        self.folder = self.own_folder = folder
        self.hubs: Hubs = Alone()
        self.settings = Settings(data_dir=folder, database_url=database_setting(folder))
        self.database = Database(self.settings.resolved_database_url)
        self.database.create_tables()
        self.events = EventBus()
        self.blobs = BlobStore(folder / "blobs")
        self.blob_watch = BlobWatch(self.blobs)
        self.devices = DeviceService(self.database, self.events, self.settings)
        self.accounts = AccountService(
            self.database, folder, self.devices.authority.fingerprint, self.settings, passwords=quick_passwords()
        )
        self.datasets = DatasetService(self.database, self.blobs, self.events)
        self.projects = ProjectService(self.database, self.events, self.datasets)
        self.samples = SampleIntake(
            self.database, self.events, self.devices, self.projects, BlobStore(folder / "samples")
        )
        self.labelling = LabellingService(
            self.database, self.events, self.projects, self.datasets, self.blobs, self.samples
        )
        self.models = ModelService(self.database, self.blobs)
        self.devices.may_pin(self.models.get_version)
        self.signing = signer = signing(folder / "signing")
        self.builds = BuildService(self.database, self.blobs, self.events, signer)
        sessions = TuningSessions(folder / "tuning", self.blobs, signer)
        self.builds.device_tunings = DeviceTunings(sessions, self.devices)
        self.rollouts = RolloutService(self.database, self.events, self.devices, self.builds)
        self.runs = RunService(self.database, self.events, self.projects)
        self.quotas = QuotaService(
            None, self.projects, self.datasets, self.samples, self.builds, self.devices, self.runs
        )
        self.imports = ModelImports(self.projects, self.datasets, self.runs, self.blobs, folder / "imports")
        self.telemetry = TelemetryService(
            self.database,
            self.events,
            self.builds.reference,
            lambda name: self.projects.get(name).spec.retraining.drift_policy,
        )
        self.triggers = Triggers(
            self.events, self.projects, self.datasets, self.devices, self.telemetry, self.labelling, self.runs
        )
        observer = Observer(self.devices, self.projects, self.runs, self.rollouts, self.telemetry, 30.0)
        self.alerts = AlertService(self.database, self.events, observer)
        sight = Sight(self.runs, self.rollouts, self.builds, self.devices, self.datasets, self.projects, self.alerts)
        self.webhooks = WebhookService(self.database, self.events, sight)


def filled(folder: Path) -> Services:
    """Return services with three device types, three runs, two versions, a rollout under way, telemetry and drift."""
    hub = Services(folder)
    _Filling(hub, np.random.default_rng(1)).all()
    return hub


def pictures(classes: tuple[str, ...] = ("0", "1", HOSTILE.replace("/", "")), each: int = 6, seed: int = 0) -> bytes:
    """Return a zip of class folders with small real pictures."""
    random = np.random.default_rng(seed)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in classes:
            for index in range(each):
                picture = io.BytesIO()
                Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(picture, "PNG")
                archive.writestr(f"{name}/{index}.png", picture.getvalue())
        archive.writestr(f"{classes[0]}/broken <b>.png", b"no picture")
    return packed.getvalue()


def _picture(random: np.random.Generator) -> bytes:
    """Return a small picture that looks like no other."""
    packed = io.BytesIO()
    blocks = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((48, 48), Image.Resampling.BICUBIC).save(packed, "PNG")
    return packed.getvalue()


class _Filling:
    def __init__(self, hub: Services, random: np.random.Generator) -> None:
        self.hub = hub
        self.random = random
        self.counts = plausible_counts(random, 2000)
        self.status = {name: AgentStatus() for name in BOARDS}

    def all(self) -> None:
        self._devices()
        self._dataset()
        self._project()
        first = self._finished_run(Trigger.APPLY, "new project", 1)
        self._finished_rollout(first)
        self._telemetry()
        second = self._finished_run(Trigger.DRIFT, f"drift in brightness on pi5-1 {HOSTILE}", 2)
        self._open_rollout(second)
        self._running_run()
        self._samples()
        self.hub.alerts.look()
        for _ in range(2):
            self.hub.telemetry.refusals.note(
                "pi5-2", "telemetry_flood", "it sends more telemetry than a device can make"
            )

    def _devices(self) -> None:
        _, token = self.hub.devices.create_join_token({"site": "busan"}, uses=8)
        for name, board in BOARDS.items():
            index = sorted(LIMITS).index(board)
            inventory = Inventory(
                hostname=HOSTILE,
                machine_id=name,
                board=board,
                architecture="aarch64",
                cpu_model="Cortex",
                cores=4,
                threads=1 + index % 2,
                memory_bytes=(1 + index) * 512_000_000,
                disk_free_bytes=9_000_000_000,
                os="Debian 12",
                kernel="6.1",
                python="3.11.2",
                engines=[Engine(name="onnxruntime", version="1.20", precisions=["fp32", "int8"])],
            )
            labels = {"role": "canary"} if name == "pi5-1" else {}
            self.hub.devices.enrol(Enrolment(token, name, inventory, "0.1.0", True, labels, Key().request()))
            if name != "zero2-1":
                self._connect(name, inventory)
        self.types = {name: self.hub.devices.get(name).device_type for name in BOARDS}
        asks = Enrolment(
            "", "wants-in", Inventory(board=HOSTILE), "0.1.0", False, {}, Key().request(), "192.0.2.7:5000"
        )
        self.hub.devices.enrol(asks)

    def _connect(self, name: str, inventory: Inventory) -> None:
        async def opened() -> None:
            hello = Hello(inventory=inventory, agent_version="0.1.0", status=self.status[name], knows_shadows=True)
            stream = self.hub.devices.connections.open(name, hello)
            if name == "pi5-1":
                serves = Cache(("192.168.1.7:8600",), bytes(32))
                self.hub.devices.caches.told(stream, {}, "192.168.1.7", serves)

        asyncio.run(opened())

    def _dataset(self) -> None:
        archive = self.hub.folder / "pictures.zip"
        for seed in (0, 1):
            archive.write_bytes(pictures(seed=seed))
            self.hub.datasets.import_archive(PROJECT, archive, append=seed > 0, strict=False)

    def _project(self) -> None:
        limits = [
            Limits(selector=f"type={kind}", latency_ms=self._limit(kind)) for kind in sorted(set(self.types.values()))
        ]
        spec = ProjectSpec(
            dataset=PROJECT,
            limits=limits,
            rollout=RolloutSpec(waves=[0.34, 0.66], soak_seconds=0.0),
            retraining=RetrainingPolicy(drift=DriftTrigger(enabled=True, min_samples=200)),
            samples=SamplingSpec(enabled=True),
        )
        self.hub.projects.apply(PROJECT, spec)

    def _samples(self) -> None:
        """Let devices send nine pictures: one is labelled, one skipped, one was none; the others wait."""
        device = self.hub.devices.get("pi5-1")
        reasons = [*SampleReason]
        names = []
        for number, data in enumerate([*(_picture(self.random) for _ in range(8)), f"no picture {HOSTILE}".encode()]):
            told = SampleView(
                name="",
                project=PROJECT,
                digest=digest_of(data),
                device=device.name,
                model_version=device.active_version,
                reason=reasons[number % 3],
                predicted=("0", "1", HOSTILE)[number % 3],
                confidence=0.35 + 0.05 * number,
                size_bytes=len(data),
            )
            names.append(self.hub.samples.receive(device, told, data).name)
        self.hub.labelling.label(names[0], "1", decided_by="ana")
        self.hub.labelling.label(names[2], "1", decided_by="ana")
        self.hub.labelling.skip(names[1], "ana")

    def _limit(self, device_type: str) -> float:
        return next((ms for board, ms in LIMITS.items() if board in device_type), 5.0)

    def _finished_run(self, trigger: Trigger, reason: str, number: int) -> str:
        run = self.hub.runs.start(PROJECT, trigger, reason)
        began = utc_now() - timedelta(minutes=50 - 20 * number)
        metrics: dict[str, float] = {}
        if number > 1:
            for kind in set(self.types.values()):
                for group, before, now in (("old", 0.952, 0.955), ("new", 0.71, 0.931), ("all", 0.87, 0.948)):
                    metrics |= {f"champion {group} {kind}": before, f"challenger {group} {kind}": now}
        self.hub.runs.change(
            run.name,
            stages=_stages(began, metrics),
            state=RunState.RUNNING,
            dataset_version=f"datasets/{PROJECT}/versions/{number}",
        )
        for epoch in range(1, 21):
            self._training_point(run, epoch)
        chosen = {kind: self._candidates(run.name, kind) for kind in sorted(set(self.types.values()))}
        version = self.hub.models.create_version(
            PROJECT,
            run.name,
            f"datasets/{PROJECT}/versions/{number}",
            f"sha256:{number:064x}",
            {kind: candidate.subnet for kind, candidate in chosen.items()},
            {kind: candidate.accuracy or 0.0 for kind, candidate in chosen.items()},
        )
        for kind, candidate in chosen.items():
            self._builds(version.name, kind, candidate)
        if number > 1:
            for kind in chosen:
                self.hub.runs.keep_comparison(run.name, _comparison(kind, number))
        self.hub.runs.end(
            run.name, RunState.SUCCEEDED, outcome=f"v{number} is better on both validation sets; rolled out"
        )
        return version.name

    def _training_point(self, run: Run, epoch: int) -> None:
        point = {
            "epoch": float(epoch),
            "loss": 2.3 * float(np.exp(-epoch / 6)) + 0.1,
            "accuracy_largest": 0.97 - 0.8 * float(np.exp(-epoch / 4)),
            "accuracy_smallest": 0.94 - 0.85 * float(np.exp(-epoch / 5)),
        }
        self.hub.runs.add_training_points(run.name, [point])

    def _candidates(self, run: str, kind: str) -> Candidate:
        limit = self._limit(kind)
        rows = []
        for index, share in enumerate(np.linspace(0.35, 1.6, 12)):
            ms = float(limit * share)
            measured = ms * float(self.random.normal(1.0, 0.04)) if 4 <= index <= 6 else None
            accuracy = 0.97 - 0.06 * float(np.exp(-index / 4)) + (0.0 if index % 3 else -0.006)
            subnet = digest_of(f"{run} {kind} {index}".encode())
            rows.append(
                Candidate(
                    key=f"{run}|{kind}|{subnet}",
                    run=run,
                    device_type=kind,
                    subnet=subnet,
                    description=f"d={1 + index % 4} w=.5 k=3,5",
                    predicted_accuracy=accuracy - 0.003,
                    accuracy=accuracy,
                    predicted_ms=ms,
                    predicted_low_ms=ms * 0.92,
                    predicted_high_ms=ms * 1.08,
                    measured_ms=measured,
                    macs=2_000_000 + 300_000 * index,
                    params=120_000 + 30_000 * index,
                    model_bytes=490_000 + 120_000 * index,
                    choices=_choices(index),
                    drawing=_DRAWING,
                    on_front=index % 3 != 0,
                    chosen=index == 5,
                )
            )
        self.hub.runs.keep_candidates(rows)
        return rows[5]

    def _builds(self, version: str, kind: str, candidate: Candidate) -> None:
        results = [self._result(version, kind, candidate, precision) for precision in ("fp32", "int8")]
        builds = self.hub.builds.record(version, kind, results, candidate.predicted_ms)
        for build, factor in zip(builds, (1.0, 0.7), strict=True):
            ms = (candidate.measured_ms or 1.0) * factor
            self.hub.builds.set_measured(build.name, ms, 0.02 * ms, "a device of the type")
        self.hub.builds.select(self.hub.builds.of_type(version, kind), FREE)

    def _result(self, version: str, kind: str, candidate: Candidate, precision: str) -> dict[str, Any]:
        folder = self.hub.folder / "made" / f"{version.replace('/', '-')}-{kind}-{precision}"
        folder.mkdir(parents=True)
        network(folder / "model.onnx")
        manifest = {
            "files": [_file(folder / "model.onnx")],
            "project": version.split("/")[1],
            "model_version": version,
            "device_type": kind,
            "precision": precision,
            "subnet": candidate.subnet,
            "classes": [HOSTILE, *"123456789"],
            "judged": self._judged(),
            "reference": {
                **{name: [int(n) for n in counts] for name, counts in reference_of(self.counts).items()},
                EMBEDDING: [*_NEAR, *_FAR],
                "confidence_right": [int(0.9 * n) for n in self.counts["confidence"]],
            },
        }
        text = json.dumps(manifest, sort_keys=True).encode()
        (folder / "manifest.json").write_bytes(text)
        log = folder.with_suffix(".log")
        log.write_text(f"[10:00:00] building onnxruntime/{precision}\n[10:00:01] VERIFIED\n")
        files = [_file(path) for path in sorted(folder.iterdir())]
        return {
            "engine": "onnxruntime",
            "precision": precision,
            "state": "VERIFIED",
            "reason": "",
            "directory": str(folder),
            "files": files,
            "size_bytes": 812_000 if precision == "fp32" else 240_000,
            "accuracy": 0.951,
            "subnet_accuracy": 0.953,
            "max_abs_error": 0.0021,
            "bundle": digest_of(text),
            "log": str(log),
            "gates": [
                {"name": "accuracy", "unit": "points", "found": 0.2, "allowed": 0.5, "passed": True},
                {"name": "disagreement", "unit": "%", "found": 1.6, "allowed": None, "passed": True},
            ],
        }

    def _judged(self) -> dict[str, Any]:
        labels = self.random.integers(0, 10, 400)
        answers = np.where(self.random.random(400) < 0.93, labels, self.random.integers(0, 10, 400))
        confidences = np.clip(np.where(labels == answers, 0.9, 0.6) + self.random.normal(0, 0.1, 400), 0.1, 1.0)
        judged = labels, answers, confidences.astype(np.float32)
        return {**of_answers(*judged, 10), "examples": examples(np.arange(400) % 5, *judged)}

    def _finished_rollout(self, version: str) -> None:
        self._connect("zero2-1", self.hub.devices.get("zero2-1").inventory)
        self._create_rollout(version)
        for _ in range(4):
            self.hub.rollouts.advance()
            for name in BOARDS:
                self._obey(name)

    def _open_rollout(self, version: str) -> None:
        self._create_rollout(version)
        self.hub.rollouts.advance()
        first_wave = [name for name in BOARDS if self._behind(name)]
        for name in first_wave:
            self._obey(name)
        self.hub.rollouts.advance()
        for name in BOARDS:
            wish = self.hub.devices.assignment(name)
            if self._behind(name) and wish is not None:
                self._step(name, wish.generation, "DOWNLOAD", "STARTED", f"34 % of 240 kB {HOSTILE}")
        self.hub.rollouts.advance()

    def _create_rollout(self, version: str) -> None:
        spec = self.hub.projects.get(PROJECT).spec.rollout
        self.hub.rollouts.create(version, PROJECT, "", spec)

    def _behind(self, name: str) -> bool:
        wish = self.hub.devices.assignment(name)
        return wish is not None and wish.generation > self.status[name].generation

    def _obey(self, name: str) -> None:
        wish = self.hub.devices.assignment(name)
        if wish is None or not self._behind(name):
            return
        for step in ("DOWNLOAD", "VERIFY", "INSTALL", "PROBE", "ACTIVATE", "COMMIT"):
            self._step(name, wish.generation, step, "SUCCEEDED", "")
        status = AgentStatus(
            generation=wish.generation,
            active_bundle=wish.bundle,
            serving_url="http://127.0.0.1:9001",
            message=f"serving {HOSTILE}",
        )
        self.status[name] = status
        self.hub.devices.connections.heartbeat(name, status)
        self.hub.devices.connections.built(
            DeviceBuild(
                device=name, bundle=wish.bundle, engine="tensorrt", precision="fp16", engine_version="10.3", seconds=81.0,
                state=DeviceBuildState.FAILED, error=f"no memory {HOSTILE}",
            )
        )  # fmt: skip

    def _step(self, name: str, generation: int, step: str, state: str, message: str) -> None:
        report = StepLog(device=name, generation=generation, step=step, state=state, message=message)
        download = None
        if (step, state) == ("DOWNLOAD", "SUCCEEDED"):
            download = Download("digits", 240_000, 90_000, {"pi5-1": 60_000, HOSTILE: 1})
        self.hub.devices.connections.step(report, download)

    def _telemetry(self) -> None:
        for index, name in enumerate(BOARDS):
            windows = [self._window(name, index, sequence) for sequence in range(24)]
            self.hub.telemetry.store(windows)

    def _window(self, name: str, index: int, sequence: int) -> TelemetryWindow:
        counts = {key: [int(n) for n in values] for key, values in plausible_counts(self.random, 60).items()}
        if name == "pi5-1" and sequence > 12:
            counts["brightness"] = [*([0] * 14), 30, 20, 10, 0, 0, 0]
        ended = utc_now() - timedelta(seconds=30 * (24 - sequence))
        p50 = (2.0 + index) * float(self.random.normal(1.0, 0.05))
        device = self.hub.devices.get(name)
        return TelemetryWindow(
            device=name,
            boot_id="boot",
            sequence=sequence,
            started_at=ended - timedelta(seconds=30),
            ended_at=ended,
            bundle=device.active_bundle,
            model_version=device.active_version,
            project=PROJECT,
            request_count=60,
            latency_ms=Percentiles(p50=p50, p90=p50 * 1.3, p99=p50 * 1.9, mean=p50 * 1.1, count=60),
            error_count=sequence % 7 // 6,
            log10_latency_ms=histogram("log10_latency_ms", self._latencies(p50)),
            temperature_celsius=48.0 + 4 * index + sequence / 8,
            confidence=histogram("confidence", counts["confidence"]),
            class_counts=counts["classes"],
            inputs={
                **{key: histogram(key, counts[key]) for key in INPUT_STATISTICS},
                "size": histogram("size", [0] * 10 + [60] + [0] * 9),
                EMBEDDING: Histogram(low=0.0, high=12.0, counts=[12, 10, 8, 8, 6, 4, 4, 3, 2, 1, 1, 1]),
            },
            cpu_percent=30.0 + 10 * index + float(self.random.normal(0, 3)),
            memory_bytes=90_000_000 + 8_000_000 * index,
        )

    def _latencies(self, p50: float) -> list[int]:
        values = np.log10(p50) + np.abs(self.random.normal(0.0, 0.12, 60))
        return [int(n) for n in np.histogram(values, bins=140, range=(-2.0, 5.0))[0]]

    def _running_run(self) -> None:
        run = self.hub.runs.start(PROJECT, Trigger.MANUAL, "by hand", request_id="running")
        now = utc_now()
        stages = [Stage(name=stage.name) for stage in run.stages]
        stages[0] = Stage(
            name="prepare",
            state=StageState.SUCCEEDED,
            started_at=now - timedelta(seconds=95),
            ended_at=now - timedelta(seconds=90),
            progress=1.0,
            attempts=1,
            message="3 device types",
        )
        stages[1] = Stage(
            name="train",
            state=StageState.RUNNING,
            started_at=now - timedelta(seconds=90),
            progress=0.4,
            attempts=2,
            message="epoch 8 of 20",
            where="gpu-1 (10.0.0.7, node 5d41402a)",
            metrics={"loss": 0.61, "accuracy_largest": 0.86},
        )
        self.hub.runs.change(run.name, state=RunState.RUNNING, stages=stages)
        for epoch in range(1, 9):
            self._training_point(run, epoch)
        folder = self.hub.folder / "runs" / PROJECT / str(run.number) / "train"
        folder.mkdir(parents=True)
        lines = [
            {
                "at": (now - timedelta(seconds=90 - 10 * epoch)).isoformat(),
                "fraction": epoch / 20,
                "message": f"epoch {epoch} of 20 {HOSTILE}",
                "used": {"cpu_seconds": 17.0 * epoch + epoch % 3, "memory_bytes": 4e8 + 2e7 * epoch},
            }
            for epoch in range(1, 9)
        ]
        (folder / traces.NAME).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        (folder / "log.txt").write_text("UserWarning: lr_scheduler\n", encoding="utf-8")


# As milonga_hub.learning.drawing makes them, which the hub's own process does not load.
_DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 60 40" width="60" height="40" role="img" aria-label="32 px">'
    '<rect x="4" y="4" width="20" height="30" fill-opacity="0.25" stroke="currentColor"><title>stage0</title></rect></svg>'
)


def _file(path: Path) -> dict[str, Any]:
    return {"path": path.name, "digest": digest_of(path.read_bytes()), "size_bytes": path.stat().st_size}


def _choices(index: int) -> dict[str, str]:
    depths = {f"stage{stage}.depth": str(1 + (index + stage * stage) % 3) for stage in range(3)}
    squeeze = {f"stage{stage}.squeeze": "yes" if (index + stage) % 2 else "no" for stage in range(3)}
    kernels = {f"stage{stage}.block0.kernel": str(3 + 2 * ((index + stage * stage) % 3)) for stage in range(3)}
    return {"resolution": str(20 + 4 * (index % 4)), **depths, **squeeze, **kernels}


def _comparison(kind: str, number: int) -> Comparison:
    def group(name: str, before: float, now: float) -> ComparedGroup:
        return ComparedGroup(name=name, count=100, champion_accuracy=before, challenger_accuracy=now, gained=20, lost=3)

    return Comparison(
        device_type=kind,
        champion=f"models/{PROJECT}/versions/{number - 1}",
        challenger=f"models/{PROJECT}/versions/{number}",
        better=True,
        p_value=0.001,
        reason="better",
        groups=[group("old", 0.95, 0.96), group("new", 0.6, 0.9)],
        classes=[group(str(digit), 0.9, 0.95) for digit in range(12)],
    )


def _stages(began: Any, metrics: dict[str, float]) -> list[Stage]:
    rows = (
        ("prepare", 4, "3 device types"),
        ("train", 95, "20 epochs, accuracy 97.0% to 94.0%"),
        ("profile", 40, "8 subnets measured on each of 3 types"),
        ("search", 62, "jetson-orin-nano: d=2 w=.5, predicted 1.61 ms, measured 1.58 ms"),
        ("build", 35, "6 builds, all verified"),
        ("compare", 9, "better on new pictures, p < 0.001"),
        ("rollout", 48, "4 of 4 devices"),
    )
    stages = []
    for name, seconds, message in rows:
        ended = began + timedelta(seconds=seconds)
        stages.append(
            Stage(
                name=name,
                state=StageState.SUCCEEDED,
                started_at=began,
                ended_at=ended,
                progress=1.0,
                attempts=1,
                message=message,
                metrics=metrics if name == "compare" else {},
            )
        )
        began = ended
    return stages
