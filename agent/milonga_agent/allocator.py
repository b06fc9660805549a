"""Let glibc keep little memory that nobody uses. On other C libraries nothing is done."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

_M_ARENA_MAX = -8  # <malloc.h>


def use_one_arena() -> None:
    """Let all threads take memory from one place: each of gRPC's would have its own, most of it unused."""
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give the system back what starting took and nobody needs any more."""
    gc.collect()
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
