"""Kernels that a hub compiled are run only where its session's key has signed them, and none harms another, or the agent."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from milonga.tuning_session import Session, read_session, signed_words
from milonga_agent import kernels
from milonga_agent.errors import AgentError, BadBundle, Untrusted
from milonga_agent.limits import Limits
from milonga_agent.profile import Clock

ENDS_AT = 2000.0
KERNELS = "sha256:" + "b" * 64


class Signed:
    """A session and what its key signs."""

    def __init__(self, ends_at: float = ENDS_AT) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        formats = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        public = self._key.public_key().public_bytes(*formats).decode()
        self.text = Session("digits", "pi", public, ends_at).as_json()
        self.digest = "sha256:" + "a" * 64

    def sign(self, kernels: str = KERNELS) -> bytes:
        return self._key.sign(signed_words(self.digest, kernels), ec.ECDSA(hashes.SHA256()))

    def verify(self, signature: bytes, kernels_digest: str = KERNELS, now: float = ENDS_AT - 1) -> None:
        kernels.verify(self.text, self.digest, kernels_digest, signature, now)


def test_what_the_sessions_key_signed_is_run_until_the_session_ends() -> None:
    session = Signed()
    session.verify(session.sign())
    with pytest.raises(Untrusted, match="has ended"):
        session.verify(session.sign(), now=ENDS_AT)


def test_other_kernels_another_key_and_a_bundle_for_a_session_are_refused() -> None:
    session, other = Signed(), Signed()
    with pytest.raises(Untrusted, match="not signed by the key"):
        session.verify(session.sign(), "sha256:" + "c" * 64)
    with pytest.raises(Untrusted, match="not signed by the key"):
        session.verify(other.sign())
    session.text = json.dumps({"task": "classification", "files": []}).encode()
    with pytest.raises(Untrusted, match="cannot be followed to a key: this is no tuning session"):
        session.verify(session.sign())


def test_a_session_is_read_as_it_was_written() -> None:
    session = Session("digits", "pi", "KEY", 5.0)
    assert read_session(session.as_json()) == session


def _archive(path: Path, listed: Any) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("0.so", b"no library")
        packed.writestr("kernels.json", json.dumps(listed))
    return path


def test_kernels_are_unpacked_under_names_of_the_agents_own(tmp_path: Path) -> None:
    entry = {"file": "0.so", "arguments": [{"dtype": "float32", "shape": [1, 8]}]}
    (one,) = kernels.unpack(_archive(tmp_path / "a.zip", [entry]), tmp_path)
    assert one["library"] == tmp_path / "0.so" and one["arguments"] == [("float32", (1, 8))]
    for bad in ([{**entry, "file": "../0.so"}], [{"file": "0.so"}], 5, [{**entry, "arguments": [{"dtype": "f"}]}]):
        with pytest.raises(BadBundle, match="cannot be unpacked"):
            kernels.unpack(_archive(tmp_path / "b.zip", bad), tmp_path)
    (tmp_path / "c.zip").write_bytes(b"half of a file")
    with pytest.raises(BadBundle):
        kernels.unpack(tmp_path / "c.zip", tmp_path)


def test_a_kernel_that_crashes_hangs_or_fails_costs_itself_alone() -> None:
    def hang() -> dict[str, Any]:
        while True:
            time.sleep(60)

    def crash() -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail() -> dict[str, Any]:
        raise ValueError("it takes another shape")

    def want() -> dict[str, Any]:
        Limits(1, (), 512 << 20).apply_memory()
        return {"ms": len(bytearray(2 << 30))}

    assert kernels.apart(hang, 0.1) == {"error": "it did not end within 0.1 s"}
    assert kernels.apart(crash, 60) == {"error": "it crashed (SIGKILL)"}
    assert kernels.apart(fail, 60) == {"error": "ValueError: it takes another shape"}
    assert kernels.apart(want, 60)["error"].startswith("MemoryError")
    assert kernels.apart(lambda: {"ms": 1.5}, 60) == {"ms": 1.5}


@pytest.mark.parametrize("seconds", [2e-6, 0.5])
def test_short_kernels_are_timed_many_calls_at_once_and_long_ones_alone(seconds: float) -> None:
    now, calls = 0.0, 0

    def call() -> None:
        nonlocal now, calls
        now, calls = now + seconds, calls + 1

    found = kernels.time_call(call, 0.3, (), Clock(lambda: now, lambda seconds: None, lambda seconds: None))
    assert found == pytest.approx(seconds * 1e3)
    assert calls > 10_000 if seconds < 1e-3 else calls < 10


def _spec(folder: Path, session: Signed, signature: bytes) -> dict[str, Any]:
    (folder / "session.json").write_bytes(session.text)
    arguments = [{"dtype": "float32", "shape": [1]}]
    archive = _archive(folder / "kernels.zip", [{"file": "0.so", "arguments": arguments}])
    return {
        "id": "t",
        "session": str(folder / "session.json"),
        "session_digest": session.digest,
        "kernels": str(archive),
        "kernels_digest": KERNELS,
        "signature": base64.b64encode(signature).decode(),
        "folder": str(folder),
        "threads": 1,
        "memory_bytes": 0,
        "seconds_each": 0.1,
        "max_seconds_each": 30.0,
        "max_seconds": 60.0,
    }


def test_nothing_is_unpacked_or_loaded_before_the_signature_holds(tmp_path: Path) -> None:
    session = Signed(time.time() + 3600)
    with pytest.raises(Untrusted):
        kernels.run(_spec(tmp_path, session, Signed().sign()))
    assert not (tmp_path / "0.so").exists()
    try:
        (found,) = kernels.run(_spec(tmp_path, session, session.sign()))
    except AgentError as error:
        assert "milonga-agent[tvm]" in str(error), "without the runtime the line that adds it is told"
    else:
        assert "error" in found, "what is no library fails by itself"
