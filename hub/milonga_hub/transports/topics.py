"""Which topics are whose, under milonga/v1/{device}/, whichever broker keeps them apart."""

from __future__ import annotations

# What a device writes, and what it reads.
UPWARD = ("telemetry", "event", "status")
DOWNWARD = ("ack",)
