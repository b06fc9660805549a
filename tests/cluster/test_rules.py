"""What jobs take of a cluster, where they fit, and what paths become on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milonga_hub.cluster.rules import (
    KEEPS,
    READS,
    Node,
    Resources,
    differences,
    keeps,
    lacking,
    preferred,
    reads,
    resources,
    returned,
    sent,
)
from milonga_hub.errors import InvalidInput
from milonga_hub.jobs import KINDS

HUB = Path(__file__).parents[2] / "hub" / "milonga_hub"
SMALL, LARGE = Node("a", "10.0.0.1", Resources(2)), Node("b", "10.0.0.2", Resources(8, 1.0, 16 << 30))


def test_a_kind_takes_what_is_said_of_it_and_others_what_is_said_of_all() -> None:
    found = resources(["train=cpu:8,gpu:0.5,memory_gib:1.5", "all=cpu:2"])
    assert found["train"] == Resources(8, 0.5, 3 << 29)
    assert found["search"] == found["build"] == Resources(2)
    assert set(resources([]).values()) == {Resources(1)}
    assert resources(["train=cpu:2,workers:3"])["train"].workers == 3


@pytest.mark.parametrize(
    "text",
    ["train", "train=", "train=8", "train=cpu:0", "train=cpu:1.5", "train=cpu:-1", "train=ram:4", "train=workers:0"],
)
def test_what_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match="write train=cpu:8,gpu:1,memory_gib:16"):
        resources([text])


def test_kinds_that_stay_on_the_hub_and_teams_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no jobs 'import' on a cluster; name train, "):
        resources(["import=cpu:1"])
    with pytest.raises(InvalidInput, match="only train jobs are shared"):
        resources(["build=cpu:1,workers:2"])


def test_nodes_that_lack_what_a_job_takes_are_told_with_what_they_have() -> None:
    assert lacking([SMALL, LARGE], "train", Resources(8, 1.0)) == ""
    said = lacking([SMALL], "train", Resources(4))
    assert "4 CPUs" in said and "2 CPUs" in said and "--ray-resources train=cpu:2" in said
    assert "1 GPU" in lacking([SMALL], "train", Resources(1, 1.0))
    assert "ray start" in lacking([], "train", Resources())


def test_a_team_fits_where_all_its_workers_do() -> None:
    assert lacking([LARGE], "train", Resources(2, workers=4)) == ""
    assert "for each of 6 workers" in lacking([SMALL, LARGE], "train", Resources(2, workers=6))


def test_other_versions_are_told_and_other_compilations_of_one_are_not() -> None:
    hub = {"torch": "2.13.0+cpu", "numpy": "2.1"}
    assert differences(hub, {"torch": "2.13.0+cu128", "numpy": "2.1"}) == []
    assert differences(hub, {"torch": "2.12.0"}) == [
        "torch 2.12.0 instead of 2.13.0+cpu",
        "numpy none instead of 2.1",
    ]


def test_a_job_goes_where_most_of_what_it_reads_is_and_it_fits() -> None:
    held = {"a": 10, "b": 5}
    assert preferred([SMALL, LARGE], Resources(1), held) == "a"
    assert preferred([SMALL, LARGE], Resources(4), held) == "b"
    assert preferred([SMALL, LARGE], Resources(4), {"a": 10}) is None


def test_a_job_reads_each_file_once_and_leaves_its_folder_to_later_ones() -> None:
    spec = {
        "onnx": "/h/a.onnx",
        "expected": "/h/a.npy",
        "data": "",
        "held": ["/h/b", "/h/b"],
        "tuning_database": "/h/t",
    }
    assert reads("build", spec) == ["/h/a.onnx", "/h/a.npy", "/h/b"]
    assert keeps("build", spec) == ["/h/t"]
    assert reads("train", {"data": "/h/d", "base_checkpoint": None}) == ["/h/d"]
    places = {path: f"/n{path}" for path in [*reads("build", spec), *keeps("build", spec)]}
    there = sent("build", spec, places)
    assert there["held"] == ["/n/h/b", "/n/h/b"] and there["data"] == ""
    assert returned(there, {"/n": ""}) == spec


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(_VALUES)
def test_a_result_without_paths_of_the_node_stays_as_it_is(value: object) -> None:
    assert returned(value, {"/tmp/milonga-ray-0/jobs/x": "/hub"}) == value


def test_a_path_that_only_begins_alike_is_another() -> None:
    assert returned(["/n/work", "/n/workshop"], {"/n/work": "/h"}) == ["/h", "/n/workshop"]


def test_every_path_that_a_job_takes_from_its_spec_is_known_to_travel() -> None:
    """Jobs name what they read by these words; one that is new must be told to the cluster, too."""
    assert set(READS) <= set(KINDS) - {"import", "delta"}
    for kind, names in READS.items():
        code = (HUB / f"{KINDS[kind].removeprefix('milonga_hub.').replace('.', '/')}.py").read_text(encoding="utf-8")
        for name in ("data", "checkpoint", "base_checkpoint", "onnx", "costs"):
            if f'spec["{name}"]' in code:
                assert name in names, f"{kind} jobs read {name}"
        if "tuning_database" in code:
            assert "tuning_database" in KEEPS[kind]
