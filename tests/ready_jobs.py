"""Jobs of tests that are not about how jobs begin: processes like any other, which have imported already what they need.

A process that imports torch and the rest once forks one for each job: most jobs of tests took three times as long to begin as to do
their work. What is started in the hub's place ends with its job, with the same exit code, and the job with it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from milonga.ending import die_with_parent
from milonga_hub import jobs
from milonga_hub.jobs import LOCAL, LocalWorkers, Workers

_ROOT = Path(__file__).parent.parent
_IMPORTED = ("train", "profile", "levels", "assess", "judge", "search", "build", "compare")
# Of arguments and environment.
_MOST_BYTES = 1 << 20

_CLIENT = """
import json, os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
asked = {"arguments": sys.argv[2:], "environment": dict(os.environ), "folder": os.getcwd()}
socket.send_fds(sock, [json.dumps(asked).encode()], [0, 1, 2])
for descriptor in (0, 1):
    os.close(descriptor)
code = int(sock.recv(10) or 1)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class ReadyWorkers(LocalWorkers):
    def command(self, kind: str, workdir: Path) -> Sequence[str]:
        return [sys.executable, "-I", "-S", "-c", _CLIENT, _place(), kind, str(workdir)]


def _tells_of_ends() -> bool:
    """Whether a descriptor tells that a process ended: on Linux since 5.3, and not in every sandbox."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


READY: Workers = ReadyWorkers() if _tells_of_ends() else LOCAL


@cache
def _place() -> str:
    """Return the socket of the process that makes jobs; it ends with this one."""
    folder = tempfile.TemporaryDirectory(prefix="milonga-jobs-")
    path = str(Path(folder.name) / "socket")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ready_jobs", path],
        cwd=_ROOT, env=jobs.environment("judge", os.environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip

    def end() -> None:
        process.kill()
        process.wait()
        folder.cleanup()

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", "what makes jobs did not start; it says why above"
    process.stdout.close()
    return path


def _make(path: str) -> None:
    """Fork a process for each job that is asked for at the socket, and one that watches over it."""
    die_with_parent()
    for kind in _IMPORTED:
        importlib.import_module(jobs.KINDS[kind])
    threads = [*Path("/proc/self/task").iterdir()]
    assert len(threads) == 1, "a fork has but one thread; what is imported here must start no others"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        # Nobody waits for those that watch.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print("ready", flush=True)
        while True:
            asker, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _watch(asker)
                os._exit(0)
            asker.close()


def _watch(asker: socket.socket) -> None:
    """Begin a job and tell who asked how it ended; end it where that one is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    said, descriptors, _, _ = socket.recv_fds(asker, _MOST_BYTES, 3)
    job = os.fork()
    if job == 0:
        asker.close()
        _perform(json.loads(said), descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(job)
    either: list[Any] = [asker, ended]
    if ended not in select.select(either, [], [])[0]:
        os.kill(job, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    with contextlib.suppress(OSError):
        asker.send(str(code).encode())


def _perform(asked: dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Be the job's process: with the arguments, environment, folder and files of who asked."""
    code = 1
    try:
        for wanted, descriptor in enumerate(descriptors):
            os.dup2(descriptor, wanted)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        sys.argv[1:] = asked["arguments"]
        code = jobs.main()
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _make(sys.argv[1])
