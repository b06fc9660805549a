"""The hub of Milonga: trains, searches, builds, rolls out, watches."""

__version__ = "0.1.0"
