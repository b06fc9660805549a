"""SIGKILL at any system call: a child process is traced (ptrace(2)) and killed when it enters or leaves its n-th one."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable

# <linux/ptrace.h>
_TRACEME, _SYSCALL, _SETOPTIONS = 0, 24, 0x4200
_TRACESYSGOOD, _EXITKILL = 0x1, 0x100000
_AT_SYSTEM_CALL = signal.SIGTRAP | 0x80

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace: {os.strerror(error)}")


def run_until(action: Callable[[], None], stop: int | None) -> int | None:
    """Run the action in a child and kill it at its stop-th stop; return None then, else how many stops it made to its end.

    Every system call makes two stops: before and after. Raises RuntimeError where the action fails by itself.
    """
    pid = os.fork()
    if pid == 0:
        _be_traced(action)
    os.waitpid(pid, 0)
    _ptrace(_SETOPTIONS, pid, _TRACESYSGOOD | _EXITKILL)
    stops, passed_on = 0, 0
    while True:
        _ptrace(_SYSCALL, pid, passed_on)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if status:
                raise RuntimeError(f"the child ended by itself with status {status}; see above")
            return stops
        passed_on = 0 if os.WSTOPSIG(status) == _AT_SYSTEM_CALL else os.WSTOPSIG(status)
        if passed_on:
            continue
        stops += 1
        if stops == stop:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None


def _be_traced(action: Callable[[], None]) -> None:
    try:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
