"""A connection to a Ray cluster, with errors that say what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from milonga_hub.jobs import JobError

_NAMESPACE = "milonga"
_SECONDS = 10.0
_TRIES = 3


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a client of the cluster meanwhile. Raises JobError where it cannot be used."""
    knock(address)
    import ray

    for left in reversed(range(_TRIES)):
        try:
            ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, configure_logging=False)
            break
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            # A busy head may take longer to start a client's server than it waits for it itself.
            if not left or not isinstance(error, ConnectionAbortedError):
                raise JobError(
                    f"the Ray cluster at {address} cannot be used: {_said(error)}; look at it with: ray status"
                ) from error
    try:
        yield
    finally:
        ray.shutdown()


def knock(address: str) -> None:
    """Raise JobError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()
    except OSError as error:
        raise JobError(
            f"the Ray cluster at {address} cannot be reached ({error.strerror or error}); see that it runs (on its head: ray"
            " status) and that this machine may connect, then go on with: milonga runs resume RUN"
        ) from error


def _said(error: Exception) -> str:
    """Return the first line of an error, or the last one where the first only says that more follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (lines[-1] if lines[0].endswith(":") else lines[0]).rstrip(".")
