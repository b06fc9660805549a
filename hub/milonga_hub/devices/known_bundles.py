"""What bundles are that were ever assigned, for who hears of one again and again."""

from __future__ import annotations

from milonga_hub.db import Database
from milonga_hub.devices.models import KnownBundle

_MOST_REMEMBERED = 1_000


class KnownBundles:
    """Safe to use from several threads. What a bundle is never changes: its digest covers the manifest."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._remembered: dict[str, tuple[str, str]] = {}

    def served_as(self, bundle: str) -> tuple[str, str] | None:
        """Return project and model version of the bundle, None where no device was ever assigned it."""
        found = self._remembered.get(bundle)
        if found is None:
            with self._database.session() as session:
                known = session.get(KnownBundle, bundle)
            if known is None:
                return None
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            found = self._remembered[bundle] = (known.project, known.model_version)
        return found
