"""A signing service that has its keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from milonga_hub.db import utc_now
from milonga_hub.signing.service import SigningService


def signing(folder: Path, clock: Callable[[], datetime] = utc_now) -> SigningService:
    service = SigningService(folder, clock)
    service.prepare()
    return service
