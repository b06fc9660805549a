"""What the agent does next follows from its state alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from milonga_agent.plan import (
    MAX_STARTS,
    NEXT,
    RETRIES,
    Outcome,
    Position,
    Shadow,
    State,
    Step,
    WantedFile,
    Wish,
    accept,
    advance,
    restart,
    start,
    steady,
)
from milonga_agent.state import Store
from milonga_agent.telemetry import Boot

FIRST = Wish(1, "sha256:a", (WantedFile("manifest.json", "sha256:a", 3),), "models/d/versions/1", "d")
SECOND = Wish(2, "sha256:b", (), "models/d/versions/2", "d")


def _through(state: State, *outcomes: Outcome) -> State:
    for outcome in outcomes:
        state = advance(state, outcome, "because")
    return state


def test_every_step_says_what_follows_and_how_often_it_is_tried() -> None:
    assert set(NEXT) == set(RETRIES) == set(Step)


def test_a_wish_goes_through_all_steps_to_the_end() -> None:
    state = accept(State(), FIRST)
    seen = []
    while state.position.step is not None:
        seen.append(state.position.step)
        state = advance(state, Outcome.SUCCEEDED)
    assert seen == [Step.DOWNLOAD, Step.VERIFY, Step.INSTALL, Step.BUILD, Step.PROBE, Step.ACTIVATE, Step.COMMIT]
    assert (state.generation, state.active) == (1, FIRST)


def test_a_wish_for_a_shadow_runs_beside_what_serves_before_it_is_activated() -> None:
    state = _through(accept(State(), replace(FIRST, shadow=Shadow())), *[Outcome.SUCCEEDED] * 5)
    assert state.position.step is Step.SHADOW
    assert advance(state, Outcome.SUCCEEDED).position.step is Step.ACTIVATE
    assert advance(state, Outcome.HOPELESS).position.step is Step.ROLL_BACK


def test_a_restart_begins_a_shadow_again_but_not_for_ever() -> None:
    state = _through(accept(State(), replace(FIRST, shadow=Shadow())), *[Outcome.SUCCEEDED] * 5)
    for attempt in (2, 3):
        state = restart(state)
        assert state.position == Position(Step.SHADOW, attempt)
    assert restart(state).position.step is Step.ROLL_BACK


def test_hearing_a_wish_twice_changes_nothing() -> None:
    state = accept(State(), FIRST)
    assert accept(state, FIRST) == state
    done = _through(state, *[Outcome.SUCCEEDED] * 7)
    assert accept(done, FIRST) == done


def test_a_newer_wish_replaces_the_one_under_way() -> None:
    state = advance(accept(State(), FIRST), Outcome.SUCCEEDED)
    state = accept(state, SECOND)
    assert (state.wish, state.position) == (SECOND, Position(Step.DOWNLOAD, 1))
    assert accept(state, FIRST) == state


def test_a_bundle_that_fails_its_probe_is_rolled_back_and_the_old_one_stays() -> None:
    state = accept(_through(accept(State(), FIRST), *[Outcome.SUCCEEDED] * 7), SECOND)
    state = _through(state, *[Outcome.SUCCEEDED] * 4, Outcome.HOPELESS)
    assert state.position.step is Step.ROLL_BACK
    state = advance(state, Outcome.SUCCEEDED)
    assert (state.generation, state.active, state.position.step) == (2, FIRST, None)
    assert state.message == "because"


def test_a_damaged_file_is_fetched_again_but_not_for_ever() -> None:
    state = advance(accept(State(), FIRST), Outcome.SUCCEEDED)
    fetched = 1
    while state.position.step is not Step.ROLL_BACK:
        state = advance(state, Outcome.FAILED, "wrong digest")
        if state.position.step is Step.DOWNLOAD:
            fetched += 1
            state = advance(state, Outcome.SUCCEEDED)
    assert fetched == 3


def test_an_agent_that_dies_while_probing_gives_up_the_second_time() -> None:
    state = _through(accept(State(), FIRST), *[Outcome.SUCCEEDED] * 4)
    state = restart(state)
    assert state.position == Position(Step.PROBE, 2)
    assert restart(state).position.step is Step.ROLL_BACK


def test_an_empty_wish_stops_serving() -> None:
    state = _through(accept(State(), FIRST), *[Outcome.SUCCEEDED] * 7)
    state = _through(accept(state, Wish(generation=2)), Outcome.SUCCEEDED, Outcome.SUCCEEDED)
    assert (state.generation, state.active.bundle) == (2, "")


@given(st.lists(st.sampled_from(Outcome), max_size=60), st.lists(st.booleans(), max_size=60))
def test_whatever_happens_a_wish_ends_and_only_a_committed_bundle_is_active(
    outcomes: list[Outcome], kills: list[bool]
) -> None:
    state = accept(State(), FIRST)
    committed = False
    for index, outcome in enumerate(outcomes):
        if state.position.step is None:
            break
        committed = state.position.step is Step.COMMIT and outcome is Outcome.SUCCEEDED
        state = advance(state, outcome)
        if state.position.step is not None and index < len(kills) and kills[index]:
            state = restart(state)
    assert state.active in ((FIRST,) if committed and state.position.step is None else (Wish(),))


@given(st.lists(st.sampled_from([Outcome.FAILED, Outcome.HOPELESS]), min_size=60, max_size=60))
def test_failing_for_ever_ends_too(outcomes: list[Outcome]) -> None:
    state = accept(State(), FIRST)
    for outcome in outcomes:
        if state.position.step is None:
            break
        state = advance(state, outcome)
    assert state.position.step is None and state.generation == 1


def test_a_kill_after_activating_activates_again_but_not_for_ever() -> None:
    state = _through(accept(State(), FIRST), *[Outcome.SUCCEEDED] * 6)
    kills = 0
    while state.position.step is not Step.ROLL_BACK:
        assert state.position.step is Step.COMMIT
        state, kills = restart(state), kills + 1
        if state.position.step is Step.ACTIVATE:
            state = advance(state, Outcome.SUCCEEDED)
    assert kills == RETRIES[Step.COMMIT][0]


def test_a_bundle_that_keeps_ending_gives_way_to_the_one_before_it() -> None:
    state = _through(accept(State(), FIRST), *[Outcome.SUCCEEDED] * 7)
    state = _through(accept(state, SECOND), *[Outcome.SUCCEEDED] * 7)
    for _ in range(MAX_STARTS):
        state = start(state)
        assert state.active == SECOND
    state = start(state)
    assert (state.active, state.previous, state.starts) == (FIRST, Wish(), 1)
    assert "models/d/versions/2 ended 3 times" in state.message
    assert steady(state).starts == 0


# What may happen to an agent: the hub wishes (a bundle, or nothing), a step ends, the agent or its worker dies.
EVENTS = st.one_of(
    st.sampled_from(["wish", "wish for a shadow", "wish for nothing", "restart", "worker ended", "steady"]),
    st.sampled_from(Outcome),
)


@given(st.lists(EVENTS, max_size=120))
def test_whatever_happens_there_is_a_good_bundle_once_there_was_one_and_attempts_end(events: list[str]) -> None:
    state, good = State(), {""}
    tries, generation = 0, 0
    for event in events:
        before = state
        if event in ("wish", "wish for nothing"):
            generation += 1
            state = accept(state, Wish(generation, f"sha256:{generation}" if event == "wish" else ""))
            tries = 0
        elif event == "wish for a shadow":
            generation += 1
            state = accept(state, Wish(generation, f"sha256:{generation}", shadow=Shadow()))
            tries = 0
        elif event == "restart":
            state = restart(state)
        elif event == "worker ended":
            state = start(state) if state.active.bundle else state
        elif event == "steady":
            state = steady(state)
        elif state.position.step is not None:
            state = advance(state, Outcome(event))
            tries += 1
        if state.active != before.active and before.position.step is Step.COMMIT and event == Outcome.SUCCEEDED:
            good.add(state.active.bundle)
        assert state.active.bundle in good, "nothing serves that was not committed"
        assert not before.active.bundle or state.active.bundle or not state.wish.bundle, (
            "nothing takes away the last one"
        )
        assert {state.active, state.previous} <= set(state.kept), "both stay on disk"
        assert state.generation >= before.generation
        assert state.starts <= MAX_STARTS or not state.previous.bundle, (
            "no bundle is started for ever beside a better one"
        )
        step = state.position.step
        assert step is None or state.position.attempt <= RETRIES[step][0] + 1
        assert tries <= 60, "a wish ends"
        tries = tries if step is not None else 0


def test_the_state_on_disk_is_the_state(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shadowed = accept(State(), replace(FIRST, shadow=Shadow(minutes=0.5, go_on=True)))
    for state in (
        State(),
        accept(State(), FIRST),
        shadowed,
        _through(accept(State(), FIRST), *[Outcome.SUCCEEDED] * 7),
    ):
        store.keep_state(state)
        assert Store(tmp_path).state() == state
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_state_that_cannot_be_read_does_not_stop_the_agent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_state(accept(State(), FIRST))
    path = tmp_path / "state.json"
    for damaged in (b"", b"{", b"[]", b"\xff\x00", b'{"format": 1}', b'{"format": 9}'):
        path.write_bytes(damaged)
        assert store.state() == State()
        (tmp_path / "serving.json").write_bytes(damaged)
        assert store.serve_port() == 0
        (tmp_path / "boots.json").write_bytes(damaged)
        assert Boot(tmp_path).order == 1


def test_an_older_agent_that_takes_over_again_reads_the_state_of_a_newer_one(tmp_path: Path) -> None:
    store, state = Store(tmp_path), _through(accept(State(), FIRST), *[Outcome.SUCCEEDED] * 7)
    store.keep_state(state)
    path = tmp_path / "state.json"
    newer = json.loads(path.read_text())
    newer["new"] = newer["active"]["new"] = 1
    path.write_text(json.dumps(newer))
    assert store.state() == state
