"""Lines of the hub's log, for people and for programs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from milonga_hub.logs import JsonLines
from milonga_hub.settings import Settings


def _record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("milonga_hub.app", logging.WARNING, __file__, 1, message, arguments, info)
    record.created = 1_000_000_000.25
    return record


def test_an_event_is_one_line_of_json_whatever_it_says() -> None:
    line = JsonLines().format(_record('%s is "away"\nand 마우스', "pi-1"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2001-09-09T01:46:40.250+00:00",
        "level": "WARNING",
        "logger": "milonga_hub.app",
        "message": 'pi-1 is "away"\nand 마우스',
    }


def test_an_error_has_its_type_and_its_stack() -> None:
    try:
        raise ValueError("no\nroom")
    except ValueError as error:
        line = JsonLines().format(_record("failed", error=error))
    told = json.loads(line)["error"]
    assert "\n" not in line and (told["type"], told["message"]) == ("ValueError", "no\nroom")
    assert "test_logs.py" in told["stack"]


def test_a_hub_writes_lines_for_people_until_it_is_told_otherwise(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).log_format == "text"
    assert Settings.model_validate({"log_format": "json"}).log_format == "json"
