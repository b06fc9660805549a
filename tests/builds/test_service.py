"""Builds are recorded once, chosen only when they were run, and unpacked whole."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from milonga.v1 import models_pb2 as pb
from milonga.v1 import models_pb2_grpc
from milonga_compiler.bundle import verify_bundle, write_bundle
from milonga_hub.blobs import BlobStore
from milonga_hub.builds.models import BuildState, BuildTuning, TuningSite
from milonga_hub.builds.rpc import BuildRpc
from milonga_hub.builds.rules import FREE, Allowed
from milonga_hub.builds.service import BuildService
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.transports import grpc as grpc_transport

from tests.certificates import Tls
from tests.databases import database_url
from tests.signing.ready import signing

VERSION = "models/d/versions/1"


@pytest.fixture
def builds(tmp_path: Path) -> BuildService:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return BuildService(database, BlobStore(tmp_path / "blobs"), EventBus(), signing(tmp_path / "signing"))


def _verified(folder: Path, precision: str = "fp32", weights: bytes = b"weights") -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_bytes(weights)
    manifest = {"project": "d", "subnet": "sha256:1", "precision": precision, "reference": {"sample_count": 3}}
    bundle = write_bundle(folder / precision, manifest, {"model.onnx": folder / "weights"})
    return {
        "engine": "onnxruntime", "precision": precision, "state": "VERIFIED", "reason": "",
        "directory": str(bundle.folder), "files": [vars(file) for file in bundle.files], "size_bytes": 9,
        "bundle": bundle.digest, "accuracy": 0.9, "subnet_accuracy": 0.9, "max_abs_error": 0.0,
    }  # fmt: skip


def _rejected(precision: str = "int8") -> dict[str, Any]:
    return {
        "engine": "onnxruntime", "precision": precision, "state": "REJECTED", "reason": "loses 3 points",
        "directory": "", "files": [], "size_bytes": 0,
        "bundle": "", "accuracy": 0.87, "subnet_accuracy": 0.9, "max_abs_error": 1.0,
    }  # fmt: skip


def test_a_rejected_build_is_kept_with_its_reason_and_never_chosen(builds: BuildService) -> None:
    (build,) = builds.record(VERSION, "pi", [_rejected()], None)
    assert (build.state, build.reason, build.bundle) == (BuildState.REJECTED, "loses 3 points", "")
    with pytest.raises(FailedPrecondition, match=r"no device may get .*: loses 3 points"):
        builds.choose(build.name)
    assert builds.chosen(VERSION) == {}


def test_a_build_that_never_ran_goes_out_only_after_a_person_has_said_why(builds: BuildService, tmp_path: Path) -> None:
    unseen = {**_verified(tmp_path / "a"), "state": "BUILT", "reason": "it is built for aarch64"}
    (build,) = builds.record(VERSION, "pi", [unseen], None)
    with pytest.raises(FailedPrecondition, match="it is built, not verified: it is built for aarch64"):
        builds.choose(build.name)
    for by, reason in (("ana", " "), (" ", "seen on my desk")):
        with pytest.raises(InvalidInput, match="say wh"):
            builds.override(build.name, by, reason)
    assert builds.get(build.name).override is None
    allowed = builds.override(build.name, "ana", "seen on my desk").override
    assert allowed is not None and (allowed.by, allowed.reason) == ("ana", "seen on my desk")
    assert allowed.at <= utc_now()
    assert builds.choose(build.name).chosen and builds.get(build.name).override == allowed


def test_an_override_holds_for_the_bundle_that_a_person_saw_and_no_other(builds: BuildService, tmp_path: Path) -> None:
    unseen = {**_verified(tmp_path / "a"), "state": "BUILT"}
    (build,) = builds.record(VERSION, "pi", [unseen], None)
    builds.override(build.name, "ana", "why not")
    (again,) = builds.record(VERSION, "pi", [unseen], None)
    assert again.override is not None
    (other,) = builds.record(VERSION, "pi", [{**_verified(tmp_path / "b", weights=b"x"), "state": "BUILT"}], None)
    assert other.override is None


def test_nothing_that_is_verified_or_has_no_files_is_overridden(builds: BuildService, tmp_path: Path) -> None:
    good, bad = builds.record(VERSION, "pi", [_verified(tmp_path / "a"), _rejected()], None)
    with pytest.raises(FailedPrecondition, match="it needs no override"):
        builds.override(good.name, "ana", "to be sure")
    with pytest.raises(FailedPrecondition, match="nothing to send: loses 3 points"):
        builds.override(bad.name, "ana", "I like it")


def test_the_fastest_that_passes_is_chosen_and_every_other_says_why_not(builds: BuildService, tmp_path: Path) -> None:
    made = [_verified(tmp_path / "a", precision) for precision in ("fp32", "fp16", "int8")]
    made[1] = {**made[1], "state": "BUILT", "reason": "not run here"}
    fp32, fp16, int8 = builds.record(VERSION, "pi", made, None)
    builds.set_measured(fp32.name, 3.0, 0.1, "pi-1")
    builds.set_measured(fp16.name, 1.0)
    builds.set_measured(int8.name, 2.0)
    best = builds.select(builds.of_type(VERSION, "pi"), Allowed(latency_ms=2.5))
    assert best is not None and best.name == int8.name and best.chosen
    told = {build.precision: build.decision for build in builds.of_type(VERSION, "pi")}
    assert told == {
        "fp32": "not used: 3 ms, 2.5 ms allowed",
        "fp16": "not used: it is built, not verified: not run here",
        "int8": "the fastest that passes its gates",
    }
    gates = {gate.name: (gate.found, gate.allowed, gate.passed) for gate in builds.get(fp32.name).gates}
    assert gates == {"latency": (3.0, 2.5, False), "size": (7.0, None, True)}


def test_a_build_that_is_chosen_against_its_figures_says_so(builds: BuildService, tmp_path: Path) -> None:
    builds.orders.keep(VERSION, "pi", {}, FREE, None)
    fast, slow = builds.record(VERSION, "pi", [_verified(tmp_path / "a", each) for each in ("fp32", "int8")], None)
    builds.set_measured(fast.name, 1.0)
    builds.select(builds.of_type(VERSION, "pi"), FREE)
    by_figures = "not used: the device did not run it: it was not measured"
    assert builds.get(slow.name).decision == by_figures
    assert builds.choose(slow.name).decision == f"chosen all the same; its figures say: {by_figures}"
    builds.set_measured(slow.name, 2.5)
    builds.compare(VERSION, "pi")
    chosen = "chosen all the same; its figures say: 2.5 times as slow as onnxruntime/fp32"
    assert builds.get(slow.name).decision == chosen
    assert builds.choose(fast.name).decision == "the fastest that passes its gates"
    assert builds.get(slow.name).decision == "2.5 times as slow as onnxruntime/fp32"
    # One that figures chose, too, stays chosen until a person chooses what is faster by now.
    builds.set_measured(slow.name, 0.5)
    builds.compare(VERSION, "pi")
    assert builds.get(fast.name).decision.startswith("chosen all the same; its figures say: 2.0 times as slow as")


def test_what_tuning_came_to_is_kept_with_what_was_built_also_where_that_is_the_same(
    builds: BuildService, tmp_path: Path
) -> None:
    builds.orders.keep(VERSION, "pi", {}, FREE, None)
    asked = BuildTuning(site=TuningSite.DEVICE, minutes=5, wanted_device="pi-1")
    result = {**_verified(tmp_path / "a"), "engine": "tvm"}
    told = {"site": "DEVICE", "minutes": 5.0, "device": "pi-1", "trials": 32, "begun_ms": 6.0, "ms": 2.0}
    (build,) = builds.record(VERSION, "pi", [{**result, "tuning": told}], None)
    assert build.tuning is not None and build.tuning.gain == 3.0
    started = builds.start(VERSION, "pi", "tvm/fp32", asked)
    assert (started.wanted_tuning, started.tuning) == (asked, build.tuning), (
        "it stays as it is until this one has ended"
    )
    (again,) = builds.record(VERSION, "pi", [{**result, "tuning": {**told, "trials": 48}}], None)
    assert again.tuning is not None and again.tuning.trials == 48 and again.bundle == build.bundle
    assert builds.get(build.name).wanted_tuning == asked
    (untuned,) = builds.record(VERSION, "pi", [result], None)
    assert untuned.tuning is None


def test_a_build_that_devices_get_is_not_built_anew_under_them(builds: BuildService, tmp_path: Path) -> None:
    builds.orders.keep(VERSION, "pi", {}, FREE, None)
    (build,) = builds.record(VERSION, "pi", [_verified(tmp_path / "a")], None)
    builds.choose(build.name)
    with pytest.raises(FailedPrecondition, match="choose another first"):
        builds.start(VERSION, "pi", "onnxruntime/fp32")
    with pytest.raises(InvalidInput, match="nothing builds magic/int8"):
        builds.start(VERSION, "pi", "magic/int8")
    with pytest.raises(NotFound, match=r"no subnet for device type 'orin'; it has for: pi"):
        builds.start(VERSION, "orin", "onnxruntime/fp32")
    with pytest.raises(NotFound, match="milonga runs start"):
        builds.start("models/d/versions/9", "pi", "onnxruntime/fp32")


def test_a_build_made_anew_forgets_what_was_measured_on_the_old_one(builds: BuildService, tmp_path: Path) -> None:
    (old,) = builds.record(VERSION, "pi", [_verified(tmp_path / "a")], None)
    builds.set_measured(old.name, 3.0)
    builds.choose(old.name)
    (new,) = builds.record(VERSION, "pi", [_verified(tmp_path / "b", weights=b"other")], None)
    assert new.bundle != old.bundle
    assert (builds.get(new.name).measured_ms, builds.get(new.name).chosen) == (None, False)


def test_each_device_type_has_its_own_chosen_build(builds: BuildService, tmp_path: Path) -> None:
    results = [_verified(tmp_path / "a", "fp32"), _verified(tmp_path / "a", "int8")]
    pi, orin = builds.record(VERSION, "pi", results, 2.0), builds.record(VERSION, "orin", results, 1.0)
    builds.choose(pi[0].name)
    builds.choose(orin[1].name)
    assert {kind: build.precision for kind, build in builds.chosen(VERSION).items()} == {"pi": "fp32", "orin": "int8"}
    found = builds.by_bundle(pi[0].bundle)
    assert found is not None and found.device_type == "orin"


def test_choosing_is_told_to_those_who_listen(tmp_path: Path) -> None:
    async def choose() -> Any:
        database, events = Database(database_url(tmp_path / "test.db")), EventBus()
        database.create_tables()
        builds = BuildService(database, BlobStore(tmp_path / "blobs"), events, signing(tmp_path / "signing"))
        (build,) = builds.record(VERSION, "pi", [_verified(tmp_path / "a")], None)
        with events.listen(f"builds/{build.name}") as news:
            builds.choose(build.name)
            return (await news.next(5)).payload

    assert asyncio.run(choose()).chosen


def test_a_damaged_file_of_an_unpacked_bundle_is_written_again(builds: BuildService, tmp_path: Path) -> None:
    (build,) = builds.record(VERSION, "pi", [_verified(tmp_path / "a")], None)
    folder = builds.unpack(build.bundle, tmp_path / "out")
    # As after a power cut: the right length, and nothing in it.
    (folder / "model.onnx").write_bytes(bytes((folder / "model.onnx").stat().st_size))
    builds.unpack(build.bundle, folder)
    assert verify_bundle(folder).digest == build.bundle
    assert json.loads((folder / "manifest.json").read_text()) == builds.manifest(build.bundle)


def test_a_missing_build_names_the_command(builds: BuildService) -> None:
    with pytest.raises(NotFound, match="milonga build ls"):
        builds.get(f"{VERSION}/builds/pi:onnxruntime:fp32")


def test_builds_are_shown_over_grpc_page_by_page(builds: BuildService, tmp_path: Path) -> None:
    builds.record(VERSION, "pi", [_verified(tmp_path / "a"), _rejected()], 2.0)
    builds.record("models/d/versions/2", "pi", [_rejected()], None)

    async def read() -> list[pb.Build]:
        tls = Tls(tmp_path / "authority")
        server, port = await grpc_transport.serve(
            [BuildRpc(builds, EventBus())], "127.0.0.1", 0, tls.server(), gate=None
        )
        found: list[pb.Build] = []
        try:
            async with tls.channel(f"127.0.0.1:{port}") as channel:
                stub: Any = models_pb2_grpc.BuildServiceStub(channel)
                token = "start"
                while token:
                    request = pb.ListBuildsRequest(model_version=VERSION, page_size=1)
                    request.page_token = "" if token == "start" else token
                    page = await stub.ListBuilds(request)
                    found, token = [*found, *page.builds], page.next_page_token
                assert (await stub.GetBuild(pb.GetBuildRequest(name=found[0].name))).build == found[0]
        finally:
            await server.stop(0)
        return found

    first, second = asyncio.run(read())
    assert (first.precision, first.state, first.predicted_ms) == ("fp32", pb.BUILD_STATE_VERIFIED, 2.0)
    assert (second.precision, second.state, second.reason) == ("int8", pb.BUILD_STATE_REJECTED, "loses 3 points")
