"""Times as Python has them, for messages."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return the time as messages have it. Raises ValueError for one that does not say its time zone."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("the time must say its time zone, for example datetime.now(timezone.utc)")
    converted = Timestamp()
    converted.FromDatetime(moment)
    return converted
