"""Exit codes of the command line, and the error that it raises itself."""

from __future__ import annotations

FAILED, USAGE, NOT_FOUND, REFUSED, UNREACHABLE = 1, 2, 3, 4, 5
# Nothing failed: `--exit-code` was asked to say that there are changes.
CHANGES = 10


class Refused(Exception):
    """The command line itself finds that it cannot go on; the message says what to do."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code
