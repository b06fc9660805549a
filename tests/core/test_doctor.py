"""A hub's doctor finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from milonga_hub.app import Hub
from milonga_hub.cli.verbs import app
from milonga_hub.doctor import Check, Result, examine, worst
from milonga_hub.settings import Settings
from typer.testing import CliRunner

from tests.databases import database_setting, only_on_sqlite


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a hub that ran, and does not any more."""
    folder = tmp_path_factory.mktemp("hub")
    made = Hub(Settings(data_dir=folder, database_url=database_setting(folder)))
    made.signing.prepare()
    made.close()
    return folder


@pytest.fixture
def folder(ready: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ready, tmp_path / "hub"))


def _found(folder: Path, name: str) -> Check:
    (check,) = [
        each for each in examine(Settings(data_dir=folder, database_url=database_setting(folder))) if each.name == name
    ]
    return check


def _contents(folder: Path) -> dict[Path, bytes]:
    # Without SQLite's shared memory, where readers leave their marks.
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")}


def test_a_hub_that_is_well_has_nothing_that_failed(folder: Path) -> None:
    before = _contents(folder)
    checks = examine(Settings(data_dir=folder, database_url=database_setting(folder)))
    assert [each for each in checks if each.result is Result.FAILED] == []
    assert {each.name for each in checks} >= {
        "disk",
        "memory",
        "hub",
        "database",
        "authority",
        "signing",
        "training",
        "engines",
    }
    assert _contents(folder) == before


def test_a_hub_that_does_not_run_is_only_a_warning(folder: Path) -> None:
    check = _found(folder, "hub")
    assert check.result is Result.WARNING and "milonga up" in check.next_step


def test_a_hub_that_was_restored_and_has_not_run_yet_is_one(folder: Path) -> None:
    (folder / "hub.lock").unlink()
    assert _found(folder, "hub").result is Result.WARNING


def test_a_folder_that_never_was_a_hub_is_named(tmp_path: Path) -> None:
    check = _found(tmp_path / "nothing", "hub")
    assert check.result is Result.FAILED and "--data-dir" in check.next_step
    assert not (tmp_path / "nothing").exists()


def test_a_hub_that_is_said_to_run_and_does_not_answer_has_failed(folder: Path) -> None:
    with socket.socket() as taken:
        # Bound and not listening: nobody answers there, and nobody else takes it.
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        known = {"http": nobody, "grpc": nobody, "device": nobody, "mqtt": nobody}
        (folder / "hub.json").write_text(json.dumps(known), encoding="utf-8")
        assert _found(folder, "hub").result is Result.FAILED
        assert _found(folder, "for devices").result is Result.FAILED
        assert "0.0.0.0" in _found(folder, "reach").next_step


@only_on_sqlite
def test_a_damaged_database_is_found(folder: Path) -> None:
    path = folder / "milonga.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    check = _found(folder, "database")
    assert check.result is Result.FAILED and "milonga restore" in check.next_step


def test_an_authority_that_cannot_be_read_is_found(folder: Path) -> None:
    (folder / "authority" / "authority.pem").write_text("nothing", encoding="ascii")
    assert _found(folder, "authority").result is Result.FAILED


def test_the_worst_of_all_is_what_the_command_ends_with(folder: Path) -> None:
    assert worst([]) is Result.OK
    assert worst([Check("a", Result.WARNING, ""), Check("b", Result.OK, "")]) is Result.WARNING
    runner = CliRunner(env={"MILONGA_DATABASE_URL": database_setting(folder)})
    told = runner.invoke(app, ["doctor", "--data-dir", str(folder), "--json"])
    assert told.exit_code == 0 and json.loads(told.output)["checks"]
    (folder / "authority" / "authority.pem").unlink()
    failed = runner.invoke(app, ["doctor", "--data-dir", str(folder)])
    assert failed.exit_code == 1 and "-> restore it" in failed.output


def test_a_ray_cluster_that_is_named_is_looked_for(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"ray://127.0.0.1:{head.getsockname()[1]}"
        (there,) = [one for one in examine(Settings(data_dir=folder, ray=address)) if one.name == "Ray"]
    (gone,) = [one for one in examine(Settings(data_dir=folder, ray=address)) if one.name == "Ray"]
    assert (there.result, gone.result) == (Result.OK, Result.FAILED) and "ray status" in gone.next_step
