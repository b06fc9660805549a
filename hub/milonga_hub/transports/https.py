"""The certificate that browsers are shown, where the hub encrypts HTTP itself."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from milonga_hub.errors import InvalidInput

_log = logging.getLogger(__name__)

# Renewed files are taken up within this time; they come weeks before the old ones end.
_LOOKS_EVERY_SECONDS = 60.0


class Certificate:
    """A chain and its key (PEM files), read again when they change: connections from then on are shown the new one."""

    def __init__(self, chain: Path, key: Path | None = None) -> None:
        """`key` is for keys that are not in the chain's file. Raises InvalidInput where they cannot be used."""
        self._chain, self._key = chain, key or chain
        self.context = _context()
        try:
            self._state = self._looked()
            self._load(self.context)
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"--https-certificate {self._chain} with the key in {self._key} cannot be used: {error}; both must be PEM, of one"
                " pair, the key without a password"
            ) from error

    async def follow(self) -> None:
        """Take up files that are renewed, until cancelled."""
        while True:
            await asyncio.sleep(_LOOKS_EVERY_SECONDS)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Read the files again if they changed. Those that cannot be used leave what is there, and are looked at again."""
        try:
            state = self._looked()
            if state == self._state:
                return
            # First aside: one that fails half-way would leave a chain without its key.
            self._load(_context())
            self._load(self.context)
        except (OSError, ValueError) as error:
            _log.warning("HTTPS goes on with the certificate of before: %s cannot be used: %s", self._chain, error)
            return
        self._state = state
        _log.info("HTTPS: %s was renewed", self._chain)

    def _load(self, context: ssl.SSLContext) -> None:
        # Without a password here, OpenSSL would ask whoever started the hub.
        context.load_cert_chain(self._chain, self._key, password="")

    def _looked(self) -> tuple[int, ...]:
        """Return what changes with the files."""
        return tuple(part for path in (self._chain, self._key) for part in _stamp(path))


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
