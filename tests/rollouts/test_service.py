"""Rollouts over the real DeviceService, with devices that obey, fail, vanish and come back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from milonga.v1 import projects_pb2, rollouts_pb2
from milonga_hub.builds.models import BuildOverride, BuildState
from milonga_hub.devices.models import ShadowSpec, StepLog
from milonga_hub.devices.values import AgentStatus
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.projects.models import Project, ProjectSpec, RolloutSpec
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDeviceState, RolloutState
from milonga_hub.rollouts.rpc import RolloutRpc

from tests.rollouts.fleet import Fleet, bundle_of, version_name

SPEC = RolloutSpec(waves=[0.34, 0.66], soak_seconds=60)
THREE = {"pi-1": "pi5", "pi-2": "pi5", "pi-3": "pi5"}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, THREE)


def start(fleet: Fleet, version: int = 1, spec: RolloutSpec = SPEC, **values: Any) -> Rollout:
    rollout = fleet.rollouts.create(version_name(version), "digits", "", spec, **values)
    fleet.rollouts.advance()
    return rollout


def wave(rollout: Rollout, index: int) -> list[str]:
    return sorted(device.device for device in rollout.devices if device.wave == index)


def state(fleet: Fleet, rollout: Rollout, device: str) -> RolloutDeviceState:
    return next(each.state for each in fleet.rollouts.get(rollout.id).devices if each.device == device)


def test_waves_follow_one_another_after_their_soak(fleet: Fleet) -> None:
    rollout = start(fleet)
    first, second = wave(rollout, 0), wave(rollout, 1)
    assert (len(first), len(second)) == (1, 2)
    assert fleet.obey() == first
    fleet.rollouts.advance()
    fleet.pass_time(59)
    fleet.rollouts.advance()
    assert fleet.obey() == []
    assert "wave 1 of 2: no trouble so far; goes on at 00:01:00 UTC" in fleet.rollouts.get(rollout.id).reason
    fleet.pass_time(1)
    fleet.rollouts.advance()
    assert fleet.obey() == second
    fleet.rollouts.advance()
    fleet.pass_time(60)
    fleet.rollouts.advance()
    done = fleet.rollouts.get(rollout.id)
    assert done.state is RolloutState.SUCCEEDED
    assert done.ended_at == fleet.now
    assert [(w.device_count, w.succeeded_count, w.failed_count) for w in done.waves] == [(1, 1, 0), (2, 2, 0)]
    assert set(fleet.serving().values()) == {bundle_of(1)}


def test_a_build_that_is_not_verified_goes_out_only_where_a_person_allowed_it(fleet: Fleet) -> None:
    fleet.builds.state = BuildState.BUILT
    with pytest.raises(FailedPrecondition, match=r"it is built, not verified.*milonga build override"):
        start(fleet)
    fleet.builds.override = BuildOverride(by="ana", at=fleet.now, reason="seen on my desk")
    assert start(fleet).state is RolloutState.RUNNING


def test_a_shadow_goes_out_with_the_assignment_and_its_numbers_come_back(fleet: Fleet) -> None:
    wanted = ShadowSpec(minutes=5, min_requests=20)
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0, max_failure_ratio=0.34, shadow=wanted))
    given = fleet.devices.assignment("pi-1")
    assert given is not None and given.shadow == wanted
    fleet.faults["pi-2"] = ("SHADOW", "saw only 3 requests in 5 minutes")
    said = StepLog(device="pi-1", generation=given.generation, step="SHADOW", state="STARTED", message="7 requests")
    fleet.devices.connections.step(said)
    fleet.rollouts.advance()
    one = next(each for each in fleet.rollouts.get(rollout.id).devices if each.device == "pi-1")
    assert (one.step, one.message, one.shadow) == ("SHADOW", "7 requests", "")
    said = StepLog(device="pi-1", generation=given.generation, step="SHADOW", state="SUCCEEDED", message="20 requests")
    fleet.devices.connections.step(said)
    fleet.obey()
    fleet.rollouts.advance()
    devices = {each.device: each for each in fleet.rollouts.get(rollout.id).devices}
    assert (devices["pi-1"].state, devices["pi-1"].shadow) == (RolloutDeviceState.SUCCEEDED, "20 requests")
    assert (devices["pi-2"].step, devices["pi-2"].message) == ("SHADOW", "saw only 3 requests in 5 minutes")
    assert fleet.rollouts.get(rollout.id).waves[0].failed_count == 1


def test_a_version_that_is_wanted_without_a_shadow_does_not_wait_for_one(fleet: Fleet) -> None:
    first = start(fleet, spec=RolloutSpec(waves=[1.0], shadow=ShadowSpec()))
    shadowed = fleet.devices.assignment("pi-1")
    fleet.rollouts.abort(first.id)
    start(fleet, spec=RolloutSpec(waves=[1.0]))
    plain = fleet.devices.assignment("pi-1")
    assert shadowed is not None and plain is not None
    assert plain.shadow is None and plain.generation > shadowed.generation
    fleet.obey()
    start(fleet, spec=RolloutSpec(waves=[1.0], shadow=ShadowSpec()))
    again = fleet.devices.assignment("pi-1")
    assert again is not None and again.generation == plain.generation, "what serves already is not run beside itself"


def test_an_agent_that_knows_no_shadows_is_left_out_until_it_does(fleet: Fleet) -> None:
    fleet.old.add("pi-3")
    fleet.disconnect("pi-3")
    fleet.connect("pi-3")
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0, shadow=ShadowSpec()))
    assert fleet.obey() == ["pi-1", "pi-2"]
    left_out = next(each for each in fleet.rollouts.get(rollout.id).devices if each.device == "pi-3")
    assert left_out.wave == LEFT_OUT and "has not said that it knows shadows" in left_out.message
    fleet.old.clear()
    fleet.disconnect("pi-3")
    fleet.connect("pi-3")
    fleet.rollouts.advance()
    assert fleet.obey() == ["pi-3"]


def test_the_service_says_when_to_look_again(fleet: Fleet) -> None:
    start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=3))
    fleet.obey()
    assert fleet.rollouts.advance() == pytest.approx(3)


def test_a_failed_device_pauses_the_rollout_and_says_who_and_why(fleet: Fleet) -> None:
    fleet.faults = dict.fromkeys(THREE, ("PROBE", "answers differ by 0.31"))
    rollout = start(fleet)
    (first,) = wave(rollout, 0)
    fleet.obey()
    fleet.rollouts.advance()
    paused = fleet.rollouts.get(rollout.id)
    assert paused.state is RolloutState.PAUSED
    assert f"{first}: probe: answers differ by 0.31" in paused.reason
    fleet.pass_time(1000)
    fleet.rollouts.advance()
    assert fleet.obey() == []


def test_resuming_lets_the_failed_devices_try_again(fleet: Fleet) -> None:
    fleet.faults = dict.fromkeys(THREE, ("DOWNLOAD", "the disk is full"))
    rollout = start(fleet)
    first = wave(rollout, 0)
    fleet.obey()
    fleet.rollouts.advance()
    fleet.faults = {}
    fleet.rollouts.resume(rollout.id)
    fleet.rollouts.advance()
    assert fleet.obey() == first
    fleet.rollouts.advance()
    assert state(fleet, rollout, first[0]) is RolloutDeviceState.SUCCEEDED


def test_a_second_try_never_takes_the_served_model_away(fleet: Fleet) -> None:
    spec = RolloutSpec(waves=[1.0], soak_seconds=0)
    start(fleet, 1, spec)
    fleet.obey()
    fleet.rollouts.advance()
    fleet.faults = {"pi-1": ("PROBE", "no")}
    second = start(fleet, 2, spec)
    fleet.obey()
    fleet.rollouts.advance()
    assert fleet.serving()["pi-1"] == bundle_of(1)
    given_up = fleet.devices.assignment("pi-1")
    fleet.rollouts.resume(second.id)
    fleet.rollouts.advance()
    again = fleet.devices.assignment("pi-1")
    assert given_up is not None and again is not None
    assert (again.bundle, again.generation) == (bundle_of(2), given_up.generation + 1)


def test_allowed_failures_do_not_stop_a_rollout(fleet: Fleet) -> None:
    fleet.faults = {"pi-2": ("PROBE", "no")}
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0, max_failure_ratio=0.34))
    fleet.obey()
    fleet.rollouts.advance()
    done = fleet.rollouts.get(rollout.id)
    assert done.state is RolloutState.SUCCEEDED
    assert "pi-2 failed" in done.reason


def test_a_device_that_falls_back_while_soaking_pauses_the_rollout(fleet: Fleet) -> None:
    spec = RolloutSpec(waves=[1.0], soak_seconds=0)
    start(fleet, 1, spec)
    fleet.obey()
    fleet.rollouts.advance()
    rollout = start(fleet, 2)
    (first,) = wave(rollout, 0)
    fleet.obey()
    fleet.rollouts.advance()
    fleet.tell(first, AgentStatus(generation=fleet.status[first].generation, active_bundle=bundle_of(1)))
    fleet.pass_time(100)
    fleet.rollouts.advance()
    assert fleet.rollouts.get(rollout.id).state is RolloutState.PAUSED


def test_a_wave_does_not_end_while_a_device_of_it_is_gone(fleet: Fleet) -> None:
    rollout = start(fleet)
    (first,) = wave(rollout, 0)
    fleet.obey()
    fleet.rollouts.advance()
    fleet.disconnect(first)
    fleet.pass_time(100)
    fleet.rollouts.advance()
    assert f"{first} must be on line" in fleet.rollouts.get(rollout.id).reason
    fleet.connect(first)
    fleet.rollouts.advance()
    assert fleet.obey() == wave(rollout, 1)


def test_a_device_that_is_off_line_is_named_and_gets_the_model_when_it_comes(fleet: Fleet) -> None:
    fleet.disconnect("pi-2")
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0))
    fleet.obey()
    fleet.rollouts.advance()
    waiting = fleet.rollouts.get(rollout.id)
    assert waiting.state is RolloutState.RUNNING
    assert "waiting for 1 device, pi-2 off line" in waiting.reason
    assert state(fleet, rollout, "pi-2") is RolloutDeviceState.WAITING
    fleet.connect("pi-2")
    fleet.obey()
    fleet.rollouts.advance()
    assert fleet.rollouts.get(rollout.id).state is RolloutState.SUCCEEDED


def test_a_deleted_device_is_not_waited_for(fleet: Fleet) -> None:
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0))
    fleet.devices.delete("pi-2")
    fleet.obey("pi-1", "pi-3")
    fleet.rollouts.advance()
    done = fleet.rollouts.get(rollout.id)
    assert done.state is RolloutState.SUCCEEDED
    assert done.reason == "left out pi-2"


@pytest.mark.parametrize("verb", ["delete", "revoke"])
def test_what_became_of_a_device_that_is_gone_is_said(fleet: Fleet, verb: str) -> None:
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0))
    getattr(fleet.devices, verb)("pi-2")
    fleet.rollouts.advance()
    (gone,) = (each for each in fleet.rollouts.get(rollout.id).devices if each.wave == LEFT_OUT)
    assert (gone.device, gone.message) == ("pi-2", "the device was deleted or revoked")


def test_a_newer_rollout_of_the_project_supersedes_the_open_one(fleet: Fleet) -> None:
    old = start(fleet, 1)
    new = start(fleet, 2)
    ended = fleet.rollouts.get(old.id)
    assert (ended.state, ended.reason) == (RolloutState.ABORTED, f"superseded by {new.id}")
    assert [each.id for each in fleet.rollouts.list("digits")[0]] == [new.id, old.id] == ["digits-2", "digits-1"]


def test_an_assignment_by_someone_else_is_not_taken_for_success(fleet: Fleet) -> None:
    rollout = start(fleet)
    (first,) = wave(rollout, 0)
    fleet.devices.assign(first, bundle_of(3), [], version_name(3), "other", "onnxruntime/int8")
    fleet.obey()
    fleet.rollouts.advance()
    (left_out,) = [device for device in fleet.rollouts.get(rollout.id).devices if device.wave == LEFT_OUT]
    assert (left_out.device, fleet.serving()[first]) == (first, bundle_of(3))
    assert "a later assignment took the place" in left_out.message


def test_a_hub_that_restarts_goes_on_with_every_rollout(fleet: Fleet) -> None:
    rollout = start(fleet)
    for _ in range(10):
        fleet.rollouts = fleet.restarted()
        fleet.rollouts.advance()
        fleet.obey()
        fleet.pass_time(40)
    assert fleet.rollouts.get(rollout.id).state is RolloutState.SUCCEEDED
    assert {fleet.devices.get(name).assigned_generation for name in THREE} == {1}


def test_a_crash_between_assigning_and_noting_it_changes_nothing(fleet: Fleet) -> None:
    rollout = fleet.rollouts.create(version_name(1), "digits", "", SPEC)
    (first,) = wave(rollout, 0)
    build = fleet.builds.by_bundle(bundle_of(1))
    assert build is not None
    fleet.devices.assign(first, build.bundle, build.files, version_name(1), "digits", "onnxruntime/int8")
    fleet.rollouts.advance()
    assert fleet.devices.get(first).assigned_generation == 1
    assert next(d.generation for d in fleet.rollouts.get(rollout.id).devices if d.device == first) == 1


def test_each_type_gets_its_own_build_and_types_without_one_are_left_out(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": "pi5", "b": "n100", "c": "toaster"})
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0))
    fleet.obey()
    fleet.rollouts.advance()
    assert fleet.serving() == {"a": bundle_of(1, "pi5"), "b": bundle_of(1, "n100"), "c": ""}
    (left_out,) = [device for device in fleet.rollouts.get(rollout.id).devices if device.wave == LEFT_OUT]
    assert left_out.device == "c"
    assert "no chosen build for toaster" in left_out.message
    assert fleet.rollouts.get(rollout.id).state is RolloutState.SUCCEEDED


def test_only_what_the_selector_names_takes_part(fleet: Fleet) -> None:
    rollout = fleet.rollouts.create(version_name(1), "digits", "name in (pi-1, pi-3)", SPEC)
    assert {device.device for device in rollout.devices} == {"pi-1", "pi-3"}
    with pytest.raises(FailedPrecondition, match="no device matches"):
        fleet.rollouts.create(version_name(1), "digits", "name=nobody", SPEC)


def test_a_version_that_fits_no_device_is_refused(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"c": "toaster"})
    with pytest.raises(FailedPrecondition, match="no chosen build for toaster"):
        start(fleet)


def test_a_repeated_request_makes_no_second_rollout(fleet: Fleet) -> None:
    assert start(fleet, request_id="r1").id == start(fleet, request_id="r1").id
    assert len(fleet.rollouts.list()[0]) == 1


def test_a_paused_rollout_begins_nothing_and_goes_on_when_resumed(fleet: Fleet) -> None:
    rollout = start(fleet)
    fleet.obey()
    fleet.rollouts.pause(rollout.id)
    fleet.pass_time(100)
    fleet.rollouts.advance()
    assert fleet.obey() == []
    fleet.rollouts.resume(rollout.id)
    fleet.rollouts.advance()
    fleet.pass_time(100)
    fleet.rollouts.advance()
    assert fleet.obey() == wave(rollout, 1)


def test_what_devices_come_to_while_a_rollout_is_paused_is_seen_and_tried_again_when_it_goes_on(fleet: Fleet) -> None:
    fleet.faults = {"pi-2": ("PROBE", "no")}
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=60))
    fleet.rollouts.pause(rollout.id)
    fleet.obey()
    fleet.rollouts.advance()
    paused = fleet.rollouts.get(rollout.id)
    assert (paused.state, paused.reason) == (RolloutState.PAUSED, "paused by hand")
    states = {each.device: (each.state, each.message) for each in paused.devices}
    assert states["pi-1"] == states["pi-3"] == (RolloutDeviceState.SUCCEEDED, "")
    assert states["pi-2"] == (RolloutDeviceState.FAILED, "no")
    fleet.faults.clear()
    fleet.rollouts.resume(rollout.id)
    fleet.rollouts.advance()
    assert fleet.obey() == ["pi-2"]
    fleet.rollouts.advance()
    assert fleet.rollouts.get(rollout.id).state is RolloutState.RUNNING


def test_aborting_leaves_the_others_as_they_are(fleet: Fleet) -> None:
    rollout = start(fleet)
    first = wave(rollout, 0)
    fleet.obey()
    fleet.rollouts.abort(rollout.id)
    fleet.pass_time(100)
    fleet.rollouts.advance()
    assert fleet.obey() == []
    assert [name for name, bundle in fleet.serving().items() if bundle] == first
    with pytest.raises(FailedPrecondition, match="aborted, not"):
        fleet.rollouts.resume(rollout.id)


def test_an_unknown_rollout_is_not_found(fleet: Fleet) -> None:
    with pytest.raises(NotFound, match="rollouts list"):
        fleet.rollouts.get("digits-9")


def test_the_loop_reacts_to_news_and_finished_returns_the_end(fleet: Fleet) -> None:
    async def play() -> Rollout:
        loop = asyncio.create_task(fleet.rollouts.run())
        rollout = fleet.rollouts.create(version_name(1), "digits", "", RolloutSpec(soak_seconds=0))
        end = asyncio.create_task(fleet.rollouts.finished(rollout.id))
        with fleet.events.listen("rollouts/", "devices/") as events:
            while not end.done():
                fleet.obey()
                await asyncio.wait([end, asyncio.ensure_future(events.next(5))], return_when=asyncio.FIRST_COMPLETED)
        loop.cancel()
        return await end

    done = asyncio.run(asyncio.wait_for(play(), 20))
    assert done.state is RolloutState.SUCCEEDED
    assert set(fleet.serving().values()) == {bundle_of(1)}


def test_news_of_many_devices_at_once_is_looked_at_together(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> int:
        looked: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def advance(follow: bool = True) -> float:
            waiting = sum(len(listener.pending) for listener in fleet.events._listeners)
            loop.call_soon_threadsafe(looked.put_nowait, waiting)
            return 5.0

        monkeypatch.setattr(fleet.rollouts._carrier, "advance", advance)
        running = asyncio.create_task(fleet.rollouts.run())
        await looked.get()
        for number in range(100):
            fleet.events.publish(f"devices/pi-{number}", None)
        left = await looked.get()
        running.cancel()
        return left

    assert asyncio.run(asyncio.wait_for(play(), 20)) == 0


def project_of(model_version: str) -> Project:
    return Project(name="digits", spec=ProjectSpec(dataset="d", selector="name != pi-2", rollout=SPEC))


def test_over_grpc_the_project_gives_what_the_request_leaves_out(fleet: Fleet) -> None:
    rpc = RolloutRpc(fleet.rollouts, fleet.events, project_of)
    request = rollouts_pb2.CreateRolloutRequest(model_version=version_name(1))
    made = asyncio.run(rpc.CreateRollout(request, None)).rollout
    assert [device.device for device in made.devices] == ["pi-1", "pi-3"]
    assert list(made.spec.waves) == [0.34, 0.66]
    spec = projects_pb2.RolloutSpec(waves=[1.0], soak_seconds=0)
    request = rollouts_pb2.CreateRolloutRequest(model_version=version_name(1), selector="name=pi-2", spec=spec)
    made = asyncio.run(rpc.CreateRollout(request, None)).rollout
    assert [device.device for device in made.devices] == ["pi-2"]
    assert made.spec.soak_seconds == 0
    listed = asyncio.run(rpc.ListRollouts(rollouts_pb2.ListRolloutsRequest(project="digits"), None)).rollouts
    assert [each.id for each in listed] == ["digits-2", "digits-1"]


def test_watching_a_rollout_ends_with_it(fleet: Fleet) -> None:
    rollout = start(fleet)
    rpc = RolloutRpc(fleet.rollouts, fleet.events, project_of)

    async def watch() -> list[int]:
        states: list[int] = []
        async for response in rpc.WatchRollout(rollouts_pb2.WatchRolloutRequest(id=rollout.id), None):
            states.append(response.rollout.state)
            if len(states) == 1:
                await rpc.PauseRollout(rollouts_pb2.PauseRolloutRequest(id=rollout.id), None)
            elif len(states) == 2:
                await rpc.ResumeRollout(rollouts_pb2.ResumeRolloutRequest(id=rollout.id), None)
            elif len(states) == 3:
                await rpc.AbortRollout(rollouts_pb2.AbortRolloutRequest(id=rollout.id), None)
        return states

    running, paused, aborted = (
        rollouts_pb2.ROLLOUT_STATE_RUNNING,
        rollouts_pb2.ROLLOUT_STATE_PAUSED,
        rollouts_pb2.ROLLOUT_STATE_ABORTED,
    )
    assert asyncio.run(asyncio.wait_for(watch(), 20)) == [running, paused, running, aborted]


def test_a_wish_that_a_dying_hub_could_not_note_counts_where_it_failed(fleet: Fleet) -> None:
    rollout = fleet.rollouts.create(version_name(1), "digits", "", RolloutSpec(waves=[1.0], max_concurrent=1))
    build = fleet.builds.by_bundle(bundle_of(1))
    assert build is not None
    fleet.devices.assign("pi-2", build.bundle, build.files, version_name(1), "digits", "onnxruntime/int8")
    fleet.faults = {"pi-2": ("PROBE", "no")}
    fleet.obey()
    fleet.rollouts.advance()
    assert fleet.rollouts.get(rollout.id).state is RolloutState.PAUSED
    assert {fleet.devices.get(name).assigned_generation for name in ("pi-1", "pi-3")} == {0}


def test_devices_are_on_their_way_in_order_of_priority_and_no_more_than_may_be(fleet: Fleet) -> None:
    fleet.devices.update_labels("pi-3", {"site": "lab"})
    spec = RolloutSpec(waves=[1.0], soak_seconds=0, max_concurrent=1, priorities=["site=lab", "name=pi-2"])
    rollout = start(fleet, spec=spec)
    order = []
    for _ in THREE:
        order += fleet.obey()
        fleet.rollouts.advance()
    assert order == ["pi-3", "pi-2", "pi-1"]
    assert fleet.rollouts.get(rollout.id).state is RolloutState.SUCCEEDED


def test_canaries_come_first_then_the_sizes_then_the_shares(fleet: Fleet) -> None:
    spec = RolloutSpec(waves=[1.0], canaries="name=pi-3", wave_sizes=[1])
    rollout = start(fleet, spec=spec)
    assert wave(rollout, 0) == ["pi-3"]
    assert [len(wave(rollout, index)) for index in range(3)] == [1, 1, 1]
    with pytest.raises(InvalidInput, match=r"spec\.canaries"):
        start(fleet, spec=RolloutSpec(waves=[1.0], canaries="=="))


def test_devices_begin_in_the_window_of_their_own_time_zone(fleet: Fleet) -> None:
    # Midnight in UTC is nine in the morning in Seoul.
    fleet.devices.update_labels("pi-1", {"time_zone": "Asia/Seoul"})
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0, windows=["02:00-04:00"]))
    assert fleet.obey() == []
    assert "the first opens 2026-03-01 02:00 UTC (pi-2)" in fleet.rollouts.get(rollout.id).reason
    fleet.disconnect("pi-3")
    fleet.pass_time(2 * 3600)
    fleet.rollouts.advance()
    assert fleet.obey() == ["pi-2"]
    # Who comes after the window has closed waits for the next one.
    fleet.pass_time(3 * 3600)
    fleet.connect("pi-3")
    fleet.rollouts.advance()
    assert fleet.obey() == []
    fleet.pass_time(12 * 3600)
    fleet.rollouts.advance()
    assert fleet.obey() == ["pi-1"]
    fleet.pass_time(9 * 3600)
    fleet.rollouts.advance()
    assert fleet.obey() == ["pi-3"]
    fleet.rollouts.advance()
    assert fleet.rollouts.get(rollout.id).state is RolloutState.SUCCEEDED


def test_a_rollout_that_needs_approval_begins_when_it_is_approved(fleet: Fleet) -> None:
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], approval=True))
    assert rollout.state is RolloutState.AWAITING_APPROVAL
    assert fleet.obey() == []
    fleet.rollouts.approve(rollout.id)
    fleet.rollouts.advance()
    assert fleet.obey() == [*THREE]
    with pytest.raises(FailedPrecondition, match=r"running, not awaiting approval$"):
        fleet.rollouts.approve(rollout.id)


def test_a_rehearsal_says_who_gets_what_and_does_nothing(fleet: Fleet) -> None:
    fleet.devices.pin("pi-1", version_name(3))
    fleet.disconnect("pi-2")
    spec = RolloutSpec(waves=[1.0], windows=["02:00-04:00"])
    planned = {each.device: each for each in fleet.rollouts.rehearse(version_name(1), "digits", "", spec).devices}
    assert planned["pi-1"].wave == LEFT_OUT and "it is pinned to digits/3" in planned["pi-1"].message
    assert planned["pi-2"].message == "off line; its window opens 2026-03-01 02:00 UTC"
    assert planned["pi-3"].build == "models/digits/versions/1/builds/pi5-onnxruntime-int8"
    fleet.rollouts.advance()
    assert fleet.rollouts.list()[0] == [] and fleet.obey() == []


def test_a_pinned_device_keeps_its_version_and_comes_back_when_it_is_let_go(fleet: Fleet) -> None:
    spec = RolloutSpec(waves=[1.0], soak_seconds=0)
    start(fleet, 1, spec)
    fleet.obey()
    fleet.rollouts.advance()
    assert fleet.devices.pin("pi-1").pinned_version == version_name(1)
    second = start(fleet, 2, spec)
    assert fleet.obey() == ["pi-2", "pi-3"]
    fleet.rollouts.advance()
    ended = fleet.rollouts.get(second.id)
    assert ended.state is RolloutState.SUCCEEDED
    assert ended.reason == "left out pi-1"
    fleet.devices.unpin("pi-1")
    fleet.rollouts.advance()
    assert fleet.obey() == ["pi-1"]
    fleet.rollouts.advance()
    assert set(fleet.serving().values()) == {bundle_of(2)}
    assert [(w.device_count, w.succeeded_count) for w in fleet.rollouts.get(second.id).waves] == [(2, 2), (1, 1)]


def test_a_device_that_is_let_go_is_given_what_the_newest_rollout_brings_and_nothing_before(fleet: Fleet) -> None:
    spec = RolloutSpec(waves=[1.0], soak_seconds=0)
    start(fleet, 1, spec)
    fleet.obey()
    fleet.rollouts.advance()
    fleet.devices.pin("pi-1")
    older = start(fleet, 2, spec)
    newer = fleet.rollouts.create(version_name(3), "signs", "name in (pi-1, pi-2)", spec)
    for _ in range(4):
        fleet.rollouts.advance()
        fleet.obey()
    before = fleet.status["pi-1"].generation
    fleet.devices.unpin("pi-1")
    fleet.rollouts.advance()
    fleet.obey()
    assert fleet.status["pi-1"] == AgentStatus(generation=before + 1, active_bundle=bundle_of(3))
    said = {each.device: each.message for each in fleet.rollouts.get(older.id).devices}
    assert said["pi-1"] == f"the newer rollout {newer.id} took it"


def test_only_those_that_failed_try_again(fleet: Fleet) -> None:
    fleet.faults = {"pi-2": ("PROBE", "no")}
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0, max_failure_ratio=0.5))
    fleet.obey()
    fleet.rollouts.advance()
    assert fleet.rollouts.get(rollout.id).state is RolloutState.SUCCEEDED
    fleet.faults = {}
    fleet.rollouts.retry(rollout.id)
    fleet.rollouts.advance()
    assert fleet.obey() == ["pi-2"]
    fleet.rollouts.advance()
    assert state(fleet, rollout, "pi-2") is RolloutDeviceState.SUCCEEDED
    with pytest.raises(FailedPrecondition, match="no device of rollout digits-1 has failed"):
        fleet.rollouts.retry(rollout.id)


def test_one_that_is_off_line_for_long_holds_nothing_up_and_gets_the_model_when_it_comes(fleet: Fleet) -> None:
    fleet.disconnect("pi-2")
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0, late_after_seconds=600))
    fleet.obey()
    fleet.rollouts.advance()
    assert "1 device, pi-2 off line" in fleet.rollouts.get(rollout.id).reason
    fleet.pass_time(601)
    fleet.rollouts.advance()
    ended = fleet.rollouts.get(rollout.id)
    assert ended.state is RolloutState.SUCCEEDED
    assert "pi-2 off line for long" in ended.reason
    fleet.connect("pi-2")
    assert fleet.obey() == ["pi-2"]
    fleet.rollouts.advance()
    assert state(fleet, rollout, "pi-2") is RolloutDeviceState.SUCCEEDED
    assert fleet.rollouts.get(rollout.id).reason == ""


def test_a_wave_that_nobody_tried_holds_up_the_next_one(fleet: Fleet) -> None:
    spec = RolloutSpec(waves=[1.0], canaries="name=pi-2", soak_seconds=0, late_after_seconds=600)
    fleet.disconnect("pi-2")
    fleet.pass_time(1000)
    rollout = start(fleet, spec=spec)
    assert fleet.obey() == []
    assert "waiting for 1 device, pi-2 off line" in fleet.rollouts.get(rollout.id).reason


def test_devices_that_join_later_get_the_version_that_succeeded(fleet: Fleet) -> None:
    spec = RolloutSpec(waves=[1.0], soak_seconds=0)
    rollout = fleet.rollouts.create(version_name(1), "digits", "!spare", spec)
    fleet.rollouts.advance()
    fleet.obey()
    fleet.rollouts.advance()
    fleet.join("pi-4", "pi5")
    fleet.join("pi-5", "toaster")
    fleet.rollouts.advance()
    assert fleet.obey() == ["pi-4"]
    fleet.rollouts.advance()
    devices = {each.device: each for each in fleet.rollouts.get(rollout.id).devices}
    assert devices["pi-4"].state is RolloutDeviceState.SUCCEEDED
    assert "no chosen build for toaster" in devices["pi-5"].message
    assert fleet.rollouts.get(rollout.id).state is RolloutState.SUCCEEDED


def test_newcomers_that_fail_pause_the_rollout_before_the_next_ones_begin(fleet: Fleet) -> None:
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=0, max_concurrent=1))
    for _ in THREE:
        fleet.obey()
        fleet.rollouts.advance()
    fleet.join("pi-4", "pi5")
    fleet.join("pi-5", "pi5")
    fleet.faults = {"pi-4": ("PROBE", "no"), "pi-5": ("PROBE", "no")}
    fleet.rollouts.advance()
    assert len(fleet.obey()) == 1
    fleet.rollouts.advance()
    assert fleet.rollouts.get(rollout.id).state is RolloutState.PAUSED
    assert fleet.obey() == []


def test_a_newcomer_does_not_make_the_share_of_failures_in_its_wave_small_enough(fleet: Fleet) -> None:
    fleet.faults = {"pi-1": ("PROBE", "no")}
    rollout = start(fleet, spec=RolloutSpec(waves=[1.0], max_failure_ratio=0.3))
    fleet.obey()
    fleet.join("pi-4", "pi5")
    fleet.rollouts.advance()
    assert fleet.rollouts.get(rollout.id).state is RolloutState.PAUSED, "one of three failed; it would be one of four"
    assert fleet.obey() == []


def test_of_two_rollouts_over_one_device_the_later_wins(fleet: Fleet) -> None:
    spec = RolloutSpec(waves=[1.0], soak_seconds=0, max_concurrent=1)
    older = fleet.rollouts.create(version_name(1), "digits", "", spec)
    fleet.rollouts.advance()
    (first,) = fleet.obey()
    newer = fleet.rollouts.create(version_name(2), "signs", f"name in ({first}, pi-3)", spec)
    for _ in range(6):
        fleet.rollouts.advance()
        fleet.obey()
    assert fleet.serving() == {**dict.fromkeys(THREE, bundle_of(1)), first: bundle_of(2), "pi-3": bundle_of(2)}
    assert fleet.rollouts.get(newer.id).state is fleet.rollouts.get(older.id).state is RolloutState.SUCCEEDED
    left_out = {each.device: each.message for each in fleet.rollouts.get(older.id).devices if each.wave == LEFT_OUT}
    assert left_out == dict.fromkeys((first, "pi-3"), f"the newer rollout {newer.id} took it")


def test_a_rollout_whose_last_wave_was_taken_by_another_project_ends(fleet: Fleet) -> None:
    older = start(fleet, spec=RolloutSpec(waves=[0.34, 0.66], soak_seconds=60))
    second = wave(older, 1)
    fleet.rollouts.create(version_name(2), "signs", f"name in ({', '.join(second)})", RolloutSpec(waves=[1.0]))
    fleet.rollouts.advance()
    fleet.obey()
    fleet.rollouts.advance()
    fleet.pass_time(61)
    fleet.rollouts.advance()
    ended = fleet.rollouts.get(older.id)
    assert (ended.state, ended.reason) == (RolloutState.SUCCEEDED, f"left out {second[0]}, {second[1]}")


def test_a_device_that_another_rollout_took_after_it_had_succeeded_says_so_and_no_step(fleet: Fleet) -> None:
    older = start(fleet, spec=RolloutSpec(waves=[1.0], soak_seconds=60))
    fleet.obey()
    fleet.rollouts.advance()
    newer = fleet.rollouts.create(version_name(2), "signs", "name=pi-2", RolloutSpec(waves=[1.0]))
    fleet.rollouts.advance()
    fleet.obey()
    fleet.rollouts.advance()
    taken = next(each for each in fleet.rollouts.get(older.id).devices if each.device == "pi-2")
    assert (taken.wave, taken.step, taken.message) == (LEFT_OUT, None, f"the newer rollout {newer.id} took it")
