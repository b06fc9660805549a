"""Engines are tested where they are installed, and skipped with the line that adds them where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from milonga_compiler.engines import ENGINES, BuildSite, Engine
from milonga_compiler.environments import adding_line, usable


def need(engine: str) -> Engine:
    """Return what is known of the engine, or skip the test that wants it."""
    if not usable(engine):
        pytest.skip(f"{engine} is not installed; to test it, run: {adding_line(engine)}")
    return ENGINES[engine]


def runs_here(engine: str) -> bool:
    """Return whether this machine can run what the engine builds: builds of devices need their GPU."""
    return ENGINES[engine].build_site is BuildSite.HUB or Path("/dev/nvidia0").exists()
