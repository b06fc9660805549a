"""When two latencies are one to whoever uses a device."""

from __future__ import annotations

# Models no further apart than this are equally fast: no one notices, and other figures may decide.
TIE = 0.02
