"""Take secrets out of what leaves the device for people to read. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

_HIDDEN = "[left out]"
_PEM = re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.DOTALL)
# A line of such a block whose beginning was cut off.
_BASE64 = re.compile(r"^[A-Za-z0-9+/=]{40,}$", re.MULTILINE)
# A join token is followed by the fingerprint of its hub.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,}\.[0-9a-f]{64}")
_VARIABLES = ("MILONGA_JOIN_TOKEN",)


def redacted(text: str, secrets: Collection[str] = ()) -> str:
    """Return the text without keys, certificates, join tokens and these secrets."""
    for pattern in (_PEM, _BASE64, _TOKEN):
        text = pattern.sub(_HIDDEN, text)
    for secret in (*secrets, *(os.environ.get(name, "") for name in _VARIABLES)):
        for part in (secret, secret.partition(".")[0]):
            if part:
                text = text.replace(part, _HIDDEN)
    return text
