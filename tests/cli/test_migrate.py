"""`milonga migrate` shows and runs revisions, asks before something is lost, and leaves a hub that runs alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from milonga_hub.cli import main
from milonga_hub.cli.verbs import app
from milonga_hub.db import Database
from milonga_hub.holding import hold
from sqlalchemy import inspect
from typer.testing import CliRunner, Result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _database(tmp_path).create_tables()
    return tmp_path


def _database(folder: Path) -> Database:
    return Database(f"sqlite:///{folder / 'milonga.db'}")


def _run(folder: Path, *arguments: str, answer: str = "") -> Result:
    command = ["migrate", "--data-dir", str(folder), *arguments]
    return CliRunner(env={"MILONGA_DATABASE_URL": ""}).invoke(app, command, input=answer)


def _there(folder: Path) -> list[bool]:
    return [each["reached"] for each in json.loads(_run(folder, "--list", "--json").output)["revisions"]]


def test_it_goes_down_where_that_is_confirmed_and_up_by_itself(folder: Path) -> None:
    assert all(_there(folder))
    refused = _run(folder, "--to", "base", answer="n\n")
    assert (
        refused.exit_code == 1
        and "What was only there is lost" in " ".join(refused.output.split())
        and all(_there(folder))
    )
    assert _run(folder, "--to", "base", answer="y\n").exit_code == 0
    assert not any(_there(folder)) and {*inspect(_database(folder).engine).get_table_names()} <= {"alembic_version"}
    assert _run(folder).exit_code == 0 and all(_there(folder))


def test_statements_are_printed_and_not_run(folder: Path) -> None:
    assert _run(folder, "--to", "base", "--yes").exit_code == 0
    printed = _run(folder, "--to", "0001", "--sql")
    assert printed.exit_code == 0 and "CREATE TABLE device (" in printed.output and not any(_there(folder))


def test_a_hub_that_runs_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = hold(folder)
    assert held is not None
    try:
        assert main(["migrate", "--data-dir", str(folder)]) != 0
        assert "stop it first" in capsys.readouterr().err
    finally:
        os.close(held)


def test_a_folder_without_a_database_stays_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--data-dir", str(tmp_path / "none")]) != 0
    assert "--data-dir" in capsys.readouterr().err and not (tmp_path / "none").exists()
