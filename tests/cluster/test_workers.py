"""Which settings put jobs on a cluster, and what is said of those that cannot."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from milonga_hub.cluster.workers import RayWorkers, chosen
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.jobs import LOCAL
from milonga_hub.settings import Settings

WITH_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")


def test_jobs_run_on_the_hubs_machine_unless_a_cluster_is_named() -> None:
    assert chosen(Settings()) is LOCAL


@pytest.mark.parametrize("address", ["head", "http://head:10001", "ray://head", "ray://", "ray://head:port", "local"])
def test_what_is_no_address_is_refused_with_one_that_is(address: str) -> None:
    with pytest.raises(InvalidInput, match="write ray://head:10001"):
        chosen(Settings(ray=address))


def test_what_jobs_take_is_read_even_where_no_cluster_is_named() -> None:
    with pytest.raises(InvalidInput, match="write train=cpu:8"):
        chosen(Settings(ray_resources=["train=many"]))


def test_a_cluster_without_ray_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FailedPrecondition, match=r"pip install 'milonga-hub\[ray\]'"):
        chosen(Settings(ray="ray://head:10001"))


@WITH_RAY
@pytest.mark.parametrize("address", ["ray://head:10001", "10.0.0.1:6379", "auto"])
def test_jobs_take_the_threads_that_they_are_given_and_kinds_that_stay_take_the_machines(address: str) -> None:
    workers = chosen(Settings(ray=address, ray_resources=["train=cpu:8", "all=cpu:2"], ray_jobs=3))
    assert isinstance(workers, RayWorkers) and workers.at_once == 3
    assert (workers.threads("train"), workers.threads("build")) == (8, 2)
    *_, kind, folder, order = workers.command("train", Path("/jobs/1"))
    assert (kind, folder, json.loads(order)["address"]) == ("train", "/jobs/1", address)
    assert json.loads(order)["takes"]["cpus"] == 8
    assert workers.threads("import") == LOCAL.threads("import")
    assert workers.command("import", Path("/jobs/1")) == LOCAL.command("import", Path("/jobs/1"))
