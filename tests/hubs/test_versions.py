"""Hubs are upgraded one after the other, from the version before the last change of the tables: `make test-hubs`."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from milonga_hub.db import Database
from milonga_hub.migrations import running

from tests.hubs.processes import HOSTS, Cluster, HubProcess, eventually
from tests.hubs.scene import COUNT, MARKS, Scene, play

pytestmark = MARKS

_ROOT = Path(__file__).parents[2]
_VERSIONS = "hub/milonga_hub/migrations/versions"
_PACKAGES = ("hub", "protos", "compiler", "agent")


def test_hubs_of_two_versions_serve_beside_each_other_until_all_are_upgraded(tmp_path: Path, own_server: str) -> None:
    source, revision = _before(tmp_path / "before")
    newest = running.newest()

    def prepare(cluster: Cluster) -> None:
        # The tables as that version has them, with what is in them.
        database = Database(cluster.url)
        running.migrate(database.engine, revision)
        database.close()
        cluster.hubs[:] = [cluster.hub(host, source=source) for host in HOSTS[:2]]

    async def story(scene: Scene) -> None:
        first, second = await scene.pair()
        async with scene.fleet():
            await eventually(lambda: scene.streams().total() == COUNT, "all devices to be online")
            assert _revisions(first) == {revision}
            id = await asyncio.to_thread(scene.rollout, second, [0.25, 0.25, 0.25, 0.25])
            await eventually(lambda: scene.rows("SELECT 1 FROM assignment"), "the first wave")

            await _replace(scene, second)
            assert _revisions(first) == {revision, newest}, "one of each version"
            assert scene.rows("SELECT version_num FROM alembic_version") == [(newest,)]
            upgraded = await eventually(lambda: _leader_of(scene, newest), "the upgraded hub to lead")
            await eventually(lambda: "which this version does not know" in first.log(), "the other one to say so")
            found = await asyncio.to_thread(first.ask, "/api/v1/devices")
            assert len(found["devices"]) == COUNT, "the older one answers"
            await eventually(lambda: scene.streams().total() == COUNT, "all devices to be online")
            first.child.check()

            await _replace(scene, first)
            assert _revisions(upgraded) == {newest}
            await eventually(lambda: scene.state(id) == "SUCCEEDED", "the rollout to succeed")
            stored = "SELECT count(*) FROM telemetry_window"
            before = scene.rows(stored)
            await eventually(lambda: scene.rows(stored) > before, "telemetry to be stored")
        assert scene.rows("SELECT generation, count(*) FROM assignment GROUP BY 1") == [(1, COUNT)]

    play(tmp_path / "scene", own_server, story, prepare)


async def _replace(scene: Scene, hub: HubProcess) -> None:
    """Do what docs/hubs.md tells: end one hub, install the new version, start it."""
    scene.balancer.take_out(hub.host)
    assert await asyncio.to_thread(hub.child.stop) == 0
    hubs = scene.cluster.hubs
    new = scene.cluster.hub(hub.host)
    hubs[hubs.index(hub)] = new
    await scene.start(new)


def _revisions(hub: HubProcess) -> set[str]:
    """Return which revisions the hubs know that are there."""
    return {each["revision"] for each in hub.ask("/api/v1/hubs") if each["state"] != "LOST"}


def _leader_of(scene: Scene, revision: str) -> HubProcess | None:
    leads = [each["revision"] for each in scene.living[0].ask("/api/v1/hubs") if each["state"] == "LEADING"]
    return scene.leader() if leads == [revision] else None


def _before(folder: Path) -> tuple[Path, str]:
    """Return a folder with the version from before the newest revision of the tables, and the revision that this has.

    Skips where git does not have it, or where hubs of both cannot be there together.
    """
    if shutil.which("git") is None or not (_ROOT / ".git").exists():
        pytest.skip("the version before is in the git history, which is not here")
    names = sorted(path.stem for path in (_ROOT / _VERSIONS).glob("0*.py"))
    newest, revision = names[-1], names[-2].partition("_")[0]
    if "\nadds = True\n" not in (_ROOT / _VERSIONS / f"{newest}.py").read_text(encoding="utf-8"):
        pytest.skip(f"revision {newest} does more than add: hubs of before have to end first")
    version = _last_with(names[:-1])
    if not version or not _git("ls-tree", "--name-only", version, "hub/milonga_hub/hubs/service.py"):
        pytest.skip(
            "the git history here does not reach back to a version before the newest revision that knows several hubs"
        )
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar")
    _git("archive", "--format=tar", f"--output={archive}", version, *_PACKAGES)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder, revision


def _last_with(names: list[str]) -> str:
    """Return the newest commit that has these revisions and no others, "" for none: on the way some had a number that is another's now."""
    for commit in _git("log", "--format=%H", "--", _VERSIONS).split():
        found = _git("ls-tree", "--name-only", commit, f"{_VERSIONS}/").split()
        if sorted(Path(path).stem for path in found if Path(path).name.startswith("0")) == names:
            return commit
    return ""


def _git(*arguments: str) -> str:
    """Return what git says, "" where it fails."""
    done = subprocess.run(["git", "-C", _ROOT, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
