"""What a hub writes to its log: a line for people, or an object of JSON a line for programs that collect logs."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from milonga_hub import tracing

_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class JsonLines(logging.Formatter):
    """One object a line, whatever is in it: `time` (UTC), `level`, `logger`, `message`, and `trace` and `error` where there are.

    `error` has the `type`, the `message` and the `stack` of an exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := tracing.current_trace():
            told["trace"] = trace
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            stack = "".join(traceback.format_exception(error))
            told["error"] = {"type": type(error).__name__, "message": str(error), "stack": stack}
        return json.dumps(told, ensure_ascii=False, default=str)


def start(log_format: LogFormat) -> None:
    """Write to stderr from now on what is worth it, of other libraries what goes wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format is LogFormat.JSON else tracing.TracedLines(_LINE))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Python's own `warnings`, which would come past the log.
    logging.captureWarnings(True)
