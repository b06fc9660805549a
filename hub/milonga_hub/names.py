"""How resources are named: in full between programs, in short to people."""

from __future__ import annotations


def short_version(name: str) -> str:
    """Return the short name of a model version, "digits/1" for models/digits/versions/1, which the command line takes back."""
    return name.removeprefix("models/").replace("/versions/", "/")
