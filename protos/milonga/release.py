"""The manifest of a release of the agent, as the hub writes it and agents read it (docs/adr/0042)."""

from __future__ import annotations

import json
from dataclasses import dataclass

KIND = "agent"
# Who signs releases: a role of their own, for no project's name begins with a dash.
PROJECT = "-agent"


@dataclass(frozen=True)
class Release:
    """What a manifest says of itself; its files are checked as those of bundles are."""

    number: int
    version: str


def read_release(text: bytes) -> Release:
    """Return what the manifest says. Raises ValueError for what is none."""
    try:
        told = json.loads(text)
        if told["kind"] != KIND or told["project"] != PROJECT:
            raise ValueError(f"this is a manifest of kind {told['kind']!r}, and not of an agent")
        return Release(int(told["number"]), str(told["version"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no manifest of an agent: {error!r}") from error
