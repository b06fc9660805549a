"""Who a program is to a hub: MILONGA_API_KEY, what `milonga login` kept, or the local key of a hub on this machine."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc

from milonga.client.channel import open_channel
from milonga.client.trust import config_folder, is_loopback
from milonga.pinning import fingerprint
from milonga.v1 import accounts_pb2, accounts_pb2_grpc

# Asked before each call, "" for none.
Key = Callable[[], str]
KEY_VARIABLE = "MILONGA_API_KEY"
_LOCAL_KEY_FILE = "local.key"
# The key itself, and the fingerprint of the authority of the hub that it is for.
_LOCAL_KEY = re.compile(r"(mlocal_[A-Za-z0-9_-]{43})\.([0-9a-f]{64})\n?")
# The first question to a hub of this machine; whoever is slower than that is not there.
_ASK_SECONDS = 10.0


def stranger() -> str:
    """Return no key."""
    return ""


def key_for(address: str, authority: str) -> Key:
    """Return what gives the key to send to the hub with this authority (PEM).

    Kept and local keys go only to the hub that they are of: somebody else may listen at its address while it is away.
    """
    given = os.environ.get(KEY_VARIABLE, "")
    if given:
        return lambda: given
    shown = fingerprint_of(authority)
    kept = _kept().get(address)
    if kept is not None and kept["fingerprint"] == shown:
        return lambda: kept["key"]
    return _local_key(address, authority) if is_loopback(address.rpartition(":")[0]) else stranger


def fingerprint_of(authority: str) -> str:
    """Return the fingerprint of an authority (PEM)."""
    return fingerprint(ssl.PEM_cert_to_DER_cert(authority))


def keep(address: str, authority: str, key: str) -> Path:
    """Send this key to the hub from now on; return the file that holds it, which only its user may read."""
    return _write({**_kept(), address: {"key": key, "fingerprint": fingerprint_of(authority)}})


def forget(address: str) -> str:
    """Return the key that was kept for the hub, "" for none, and keep it no longer."""
    kept = _kept()
    forgotten = kept.pop(address, None)
    if forgotten is None:
        return ""
    _write(kept)
    return forgotten["key"]


def _local_key(address: str, authority: str) -> Key:
    """Return what reads the local key of a hub on this machine: it is another one each time that the hub starts."""
    request = accounts_pb2.DescribeSignInRequest()
    with open_channel(address, authority) as channel:
        try:
            answer = accounts_pb2_grpc.AccountServiceStub(channel).DescribeSignIn(request, timeout=_ASK_SECONDS)
        except grpc.RpcError:
            return stranger  # The call that follows says what is wrong.
    path = Path(answer.local_key_path)
    if path.name != _LOCAL_KEY_FILE:
        return stranger
    return lambda: _read_local_key(path, authority)


def _read_local_key(path: Path, authority: str) -> str:
    """Return the key, "" where this user may not read it."""
    try:
        found = _LOCAL_KEY.fullmatch(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return ""
    return found[1] if found is not None and f"sha256:{found[2]}" == fingerprint_of(authority) else ""


def _kept() -> dict[str, dict[str, str]]:
    try:
        kept: dict[str, dict[str, str]] = json.loads(_path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return kept


def _write(kept: dict[str, dict[str, str]]) -> Path:
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(kept, file, indent=1)
    temporary.replace(path)
    return path


def _path() -> Path:
    return config_folder() / "keys.json"
