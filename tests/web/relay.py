"""A line between a browser and a hub that can be cut, fall silent, and come back."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Passes on what comes to its port; `cut` ends all connections and takes no new ones, until `mend`."""

    def __init__(self, host: str, port: int) -> None:
        self._far = (host, port)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self._silent = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            ends = [*self._open]
        for each in ends:
            _end(each)

    def mend(self) -> None:
        """Take connections again; those that fell silent end, since what was swallowed is lost."""
        if self._silent.is_set():
            self.cut()
        with self._lock:
            self._is_cut = False
        self._silent.clear()

    def fall_silent(self) -> None:
        """Swallow what the hub says on connections that stay open, as a router that forgot them does."""
        self._silent.set()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.create_connection(self._far) as far:
            with self._lock:
                if self._is_cut:
                    return
                self._open |= {near, far}
            there = threading.Thread(target=self._copy, args=(near, far, False), daemon=True)
            there.start()
            self._copy(far, near, True)
            there.join()
            with self._lock:
                self._open -= {near, far}

    def _copy(self, source: socket.socket, sink: socket.socket, may_fall_silent: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not (may_fall_silent and self._silent.is_set()):
                    sink.sendall(data)
        _end(sink)
        _end(source)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relay_to(address: str) -> Iterator[Relay]:
    host, _, port = address.removeprefix("http://").partition(":")
    relay = Relay(host, int(port))
    try:
        yield relay
    finally:
        relay.close()
