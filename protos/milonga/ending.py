"""How helper processes of hub and agent end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens. It must be of its parent's process group."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended before. Whoever inherits its children (init, a session's manager) is of another group; in a
        # container the parent itself may be process 1.
        if os.getpgid(os.getppid()) != os.getpgrp():
            os._exit(1)
