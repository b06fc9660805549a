"""Programs of the operator's: bytes in, bytes out, and an end to them, whatever they do."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence

from milonga_agent.errors import AgentError

_CHUNK_BYTES = 1 << 16
# Of what it says to stderr the end is told.
_SAID_BYTES = 200


class ProgramFailed(AgentError):
    """It could not be started, did not end in time or not well, or wrote too much; the message says which."""


def output_of(arguments: Sequence[str], given: bytes, seconds: float, most_bytes: int) -> bytes:
    """Return what the program writes to stdout for what it is given on stdin. Raises ProgramFailed.

    One that takes too long or writes too much is killed with all that it started: a shell's child would go on, and hold
    up whoever waits for the end of what it writes.
    """
    name, ends_at = arguments[0], time.monotonic() + seconds
    try:
        program = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise ProgramFailed(f"{name} cannot be started: {error}") from error
    talk = _Talk(name, program, given, most_bytes)
    with program:
        try:
            talk.until(ends_at)
            code = program.wait(max(0.0, ends_at - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise ProgramFailed(f"{name} took longer than {seconds:g} s") from error
        finally:
            if program.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)
    if code:
        raise ProgramFailed(f"{name} ended with exit code {code}: {talk.said or 'it said nothing'}")
    return bytes(talk.written)


class _Talk:
    """What goes into a program and comes out of it; never more of that in memory than was allowed."""

    def __init__(self, name: str, program: subprocess.Popen[bytes], given: bytes, most_bytes: int) -> None:
        self._name = name
        self._program = program
        self._left = memoryview(given)
        self._most_bytes = most_bytes
        self._errors = b""
        self.written = bytearray()

    @property
    def said(self) -> str:
        """Return the end of what it said to stderr."""
        return self._errors.decode("utf-8", "replace").strip()

    def until(self, ends_at: float) -> None:
        """Feed it and hear it until it has closed its pipes. Raises subprocess.TimeoutExpired, or ProgramFailed for too much."""
        stdin, stdout, stderr = self._program.stdin, self._program.stdout, self._program.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        os.set_blocking(stdin.fileno(), False)
        with selectors.DefaultSelector() as pipes:
            pipes.register(stdin, selectors.EVENT_WRITE, self._feed)
            pipes.register(stdout, selectors.EVENT_READ, self._hear)
            pipes.register(stderr, selectors.EVENT_READ, self._note)
            while pipes.get_map():
                ready = pipes.select(max(0.0, ends_at - time.monotonic()))
                if time.monotonic() >= ends_at:
                    raise subprocess.TimeoutExpired(self._program.args, 0.0)
                for key, _ in ready:
                    if not key.data(key.fd):
                        pipes.unregister(key.fileobj)
                        if key.fileobj is stdin:
                            stdin.close()

    def _feed(self, pipe: int) -> bool:
        """Return whether it is to be given more."""
        try:
            self._left = self._left[os.write(pipe, self._left[:_CHUNK_BYTES]) :]
        except BrokenPipeError:
            return False  # It has read what it needs.
        return bool(self._left)

    def _hear(self, pipe: int) -> bool:
        """Return whether it may write more."""
        chunk = os.read(pipe, _CHUNK_BYTES)
        self.written += chunk
        if len(self.written) > self._most_bytes:
            raise ProgramFailed(f"{self._name} wrote more than {self._most_bytes:,} bytes")
        return bool(chunk)

    def _note(self, pipe: int) -> bool:
        chunk = os.read(pipe, _CHUNK_BYTES)
        self._errors = (self._errors + chunk)[-_SAID_BYTES:]
        return bool(chunk)
