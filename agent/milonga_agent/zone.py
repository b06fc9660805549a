"""The time zone that this machine is set to."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_ZONES = "zoneinfo/"


def time_zone(root: Path = Path("/")) -> str:
    """Return its name in the tz database, such as Asia/Seoul; empty where the machine does not say."""
    named = os.environ.get("TZ", "").lstrip(":")
    if named and not named.startswith("/"):
        return named
    # Debian writes the name down; elsewhere the link says it.
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = (root / "etc/timezone").read_text(encoding="utf-8").strip()
        if text:
            return text
    link = root / "etc/localtime"
    return str(link.readlink()).partition(_ZONES)[2] if link.is_symlink() else ""
