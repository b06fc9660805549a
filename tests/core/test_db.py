"""A hub that is updated finds its tables as it left them, with what is new filled in."""

from __future__ import annotations

from pathlib import Path

from milonga_hub.db import Database
from milonga_hub.runs.models import Candidate
from sqlalchemy import inspect, text
from sqlmodel import select


def test_columns_that_came_since_are_added_with_their_defaults(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'hub.db'}")
    database.create_tables()
    with database.session() as session:
        session.add(
            Candidate(
                key="k",
                run="r",
                device_type="t",
                subnet="s",
                precision="int8",
                drawing="<svg/>",
                choices={"depth": "2"},
            )
        )
    with database.engine.begin() as connection:
        for column in ("precision", "drawing", "choices"):
            connection.execute(text(f"ALTER TABLE candidate DROP COLUMN {column}"))
    database.create_tables()
    with database.session() as session:
        (kept,) = session.exec(select(Candidate)).all()
    assert (kept.subnet, kept.precision, kept.drawing, kept.choices) == ("s", "fp32", "", {})


def test_indexes_that_came_since_are_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'hub.db'}")
    database.create_tables()
    with database.engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_candidate_run"))
    database.create_tables()
    assert "ix_candidate_run" in {index["name"] for index in inspect(database.engine).get_indexes("candidate")}
