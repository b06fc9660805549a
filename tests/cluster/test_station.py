"""What happens on a node, without Ray: files arrive, a real job runs, and what it leaves comes back."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from milonga_hub.cluster.arrivals import Arrivals
from milonga_hub.cluster.changes import PART_BYTES, Changes, Part, in_parts
from milonga_hub.cluster.load import Load, load
from milonga_hub.cluster.station import Station, held_bytes
from milonga_hub.cluster.store import FOLDER, Store
from milonga_hub.cluster.within import StationWithin
from milonga_hub.jobs import CLAIM, JobError


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the node that this process is."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "node"))
    return tmp_path / "node"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _send(station: Station, wanted: Load) -> list[str]:
    """Send what the node lacks, and return the digests of it."""
    missing = station.missing(list(wanted.sizes))
    for batch in wanted.batches(missing):
        station.take(batch)
    return missing


def _follow(station: Station, arrivals: Arrivals) -> tuple[int, bytes, str]:
    """Return exit code, log and what the job said, once all has come back."""
    log, said = b"", b""
    while True:
        news = station.news(seconds=60.0)
        log += news.log
        said += b"".join(news.lines)
        for part in news.parts:
            arrivals.take(part)
        for name in news.gone:
            arrivals.remove(name)
        if news.code is not None:
            return news.code, log, said.decode()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Return the hub's folder of a job that was begun elsewhere."""
    folder = tmp_path / "hub" / "job"
    (folder / "kept").mkdir(parents=True)
    (folder / "kept" / "checkpoint.pt").write_bytes(b"epoch 2")
    (folder / ".scratch").write_bytes(b"x")
    (folder / "spec.json").write_text("{}")
    (folder / CLAIM).write_text("the driver's")
    return folder


# By a process of its own, and by the station's, as workers of Ray Train do.
BOTH = pytest.mark.parametrize("kind", [Station, StationWithin])


@BOTH
def test_a_job_runs_on_what_was_sent_and_what_it_leaves_comes_back(
    kind: type[Station], node: Path, workdir: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(os.urandom(20_000))
    new.write_bytes(old.read_bytes() + b"more")
    # A delta is the quickest real job; it reads "target" and "bases", which stand for what others read.
    wanted = load("build", {"onnx": str(new), "expected": str(old)}, workdir)
    station = kind("one")
    try:
        assert set(_send(station, wanted)) == set(wanted.sizes)
        folder = station.about()["folder"]
        places = {path: f"{folder}/{name}" for path, name in wanted.places.items()}
        spec = {"target": places[str(new)], "bases": {"sha256:0": places[str(old)]}}
        station.start("delta", json.dumps(spec), wanted.digests)
        code, _, said = _follow(station, Arrivals({"work": workdir}))
    finally:
        station.close()
    assert code == 0 and "from sha256:0" in said
    result = json.loads((workdir / "result.json").read_text())
    assert _digest((workdir / "delta").read_bytes()) == result["digest"].removeprefix("sha256:")
    assert (workdir / "spec.json").read_text() == "{}" and (workdir / CLAIM).read_text() == "the driver's"
    assert (workdir / "kept" / "checkpoint.pt").read_bytes() == b"epoch 2"
    assert not list((node / "jobs").iterdir())


@BOTH
def test_a_job_that_fails_ends_with_its_code_and_its_log(kind: type[Station], node: Path, workdir: Path) -> None:
    station = kind("one")
    try:
        station.start("no-such-kind", "{}", {})
        code, log, _ = _follow(station, Arrivals({"work": workdir}))
    finally:
        station.close()
    assert code == 1 and b"KeyError: 'no-such-kind'" in log
    assert not (workdir / "result.json").exists()


def test_what_an_earlier_job_read_does_not_travel_again(node: Path, workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"pictures")
    wanted = load("train", {"data": str(tmp_path / "data.npz"), "base_checkpoint": None}, workdir)
    for name, lacking in (("one", 2), ("two", 0)):
        station = Station(name)
        assert len(_send(station, wanted)) == lacking
        station.close()
    assert held_bytes(wanted.sizes) == len(b"pictures") + len(b"epoch 2")


def test_what_the_hub_writes_while_a_job_runs_does_not_travel(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"pictures")
    for name in ("spec.json", "log.txt", "progress.jsonl"):
        (workdir / name).write_text("more may come")
    wanted = load("train", {"data": str(tmp_path / "data.npz")}, workdir)
    assert set(wanted.files) == {"inputs/0/data.npz", "work/kept/checkpoint.pt"}


def test_a_data_set_of_many_files_travels_whole_with_what_lies_beside_it(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "data.yaml").write_text("train: images")
    (tmp_path / "data" / "images" / "1.png").write_bytes(b"png")
    wanted = load("train", {"data": str(tmp_path / "data" / "data.yaml")}, workdir)
    assert set(wanted.files) == {
        "inputs/0/data/data.yaml", "inputs/0/data/images/1.png", "work/kept/checkpoint.pt",
    }  # fmt: skip
    assert (
        wanted.spec("train", {"data": str(tmp_path / "data" / "data.yaml")}, "/n")["data"]
        == "/n/inputs/0/data/data.yaml"
    )


def test_a_folder_that_outlives_its_job_comes_back_to_its_place(node: Path, workdir: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "records.json").write_text("1")
    wanted = load("build", {"tuning_database": str(tuned)}, workdir)
    assert wanted.spec("build", {"tuning_database": str(tuned)}, "/n")["tuning_database"] == "/n/kept/0"
    station = Station("one")
    try:
        _send(station, wanted)
        folder = Path(station.about()["folder"])
        # It fails at once; what it would have tuned is written for it.
        station.start("no-such-kind", "{}", wanted.digests)
        assert (folder / "kept" / "0" / "records.json").read_text() == "1"
        (folder / "kept" / "0" / "records.json").write_text("12")
        _follow(station, Arrivals({"work": workdir, **wanted.kept()}))
    finally:
        station.close()
    assert (tuned / "records.json").read_text() == "12"
    # One that is not there yet is made by the job, as on the hub's machine.
    assert load("build", {"tuning_database": str(tmp_path / "none")}, workdir).kept() == {"kept/0": tmp_path / "none"}


def test_what_is_gone_is_said_with_what_to_do(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"data\.npz is gone.*milonga runs start"):
        load("train", {"data": str(tmp_path / "data.npz")}, workdir)


def test_small_files_travel_together_and_large_ones_in_parts(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(100):
        (tmp_path / "data" / f"{number}.png").write_bytes(bytes([number]))
    (tmp_path / "data" / "large").write_bytes(bytes(2 * PART_BYTES + 1))
    (tmp_path / "data" / "empty").touch()
    wanted = load("train", {"data": str(tmp_path / "data")}, workdir)
    batches = list(wanted.batches(list(wanted.sizes)))
    assert len(batches) == 3 and sum(one.last for batch in batches for one in batch) == len(wanted.sizes)
    assert max(sum(len(one.data) for one in batch) for batch in batches) < 2 * PART_BYTES


def test_only_what_changed_comes_back_and_nothing_unfinished(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "known").write_text("1")
    changes = Changes(tmp_path, ["work"], hidden=["work/spec.json"])
    for name in ("new", ".unfinished", "spec.json"):
        (work / name).write_text("1")
    assert changes.look() == (["work/new"], [])
    (work / "new").write_text("23")
    (work / "known").unlink()
    assert changes.look() == (["work/new"], ["work/known"])
    assert changes.look() == ([], [])


def test_a_file_that_is_replaced_while_it_is_read_comes_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"o" * (PART_BYTES + 1))
    parts = in_parts(tmp_path, "a")
    first = next(parts)
    (tmp_path / "b").write_bytes(b"n")
    (tmp_path / "b").replace(tmp_path / "a")
    assert {*b"".join([first.data, *(part.data for part in parts)])} == {ord("o")}
    assert list(in_parts(tmp_path, "gone")) == []


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    arrivals = Arrivals({"work": tmp_path})
    arrivals.take(Part("work/a/b", b"1", last=False))
    assert not (tmp_path / "a" / "b").exists()
    arrivals.take(Part("work/a/b", b"2", last=True))
    assert (tmp_path / "a" / "b").read_bytes() == b"12" and arrivals.count == 1
    arrivals.take(Part("work/c", b"1", last=False))
    arrivals.close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b"]
    arrivals.remove("work/a/b")
    arrivals.remove("work/a/b")
    assert not (tmp_path / "a" / "b").exists()


@pytest.mark.parametrize("name", ["work/../../x", "inputs/0/data.npz", "/etc/x", "work"])
def test_a_node_can_write_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobError, match="none of the job's folders"):
        Arrivals({"work": tmp_path}).take(Part(name, b"", last=True))


# The store


def _put(store: Store, content: bytes) -> str:
    incoming = store.incoming(_digest(content))
    incoming.take(content)
    incoming.finish()
    return _digest(content)


def test_a_job_may_change_what_it_goes_on_with_and_the_kept_file_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = _put(store, b"1")
    store.place(digest, tmp_path / "job" / "work", changes=True)
    store.place(digest, tmp_path / "job" / "input", changes=False)
    with (tmp_path / "job" / "work").open("ab") as file:
        file.write(b"2")
    assert store.path(digest).read_bytes() == b"1"
    assert (tmp_path / "job" / "input").samefile(store.path(digest))


def test_what_arrives_damaged_is_not_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    incoming = store.incoming(_digest(b"1"))
    incoming.take(b"2")
    with pytest.raises(OSError, match="memory or disk"):
        incoming.finish()
    assert not list((tmp_path / "store" / "files").iterdir())


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", max_bytes=2)
    first, second, third = (_put(store, content) for content in (b"1", b"2", b"3"))
    for age, digest in enumerate((second, first, third)):
        os.utime(store.path(digest), (age, age))
    store.evict()
    assert [store.holds(one) for one in (first, second, third)] == [True, False, True]


def test_folders_of_jobs_that_died_are_removed_and_those_that_run_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    dead, descriptor = store.open("dead")
    os.close(descriptor)
    alive, held = store.open("alive")
    assert not dead.exists() and alive.exists()
    _, descriptor = store.open("other")
    assert alive.exists()
    os.close(held)
    os.close(descriptor)
