"""What can go wrong in a build. Messages say what to do next."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Sequence


class CompilerError(Exception):
    """Base of all errors of this package; the message is for people."""


class UnknownTarget(CompilerError):
    """No such engine or precision."""


class EngineMissing(CompilerError):
    """The engine's own packages are not installed here."""


class BuildFailed(CompilerError):
    """The engine could not build the network."""


class TuningRefused(BuildFailed):
    """There is nothing to tune, not here, or not into this folder."""


class DeviceGone(TuningRefused):
    """The device that times kernels is not there any more, and is not awaited longer."""


class RunFailed(CompilerError):
    """The engine could not run what was built."""


class EngineDied(BuildFailed, RunFailed):
    """The engine's process crashed, or was ended for taking too long or too much memory. Nothing else stopped."""


class UnsupportedOperators(BuildFailed):
    """The engine does not know some of the network's operators, which `operators` names."""

    def __init__(self, message: str, operators: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.operators = tuple(operators)


class CannotRunHere(CompilerError):
    """The engine builds for hardware that this machine is not; the build is BUILT and nobody has seen it run."""


class DiskFull(CompilerError):
    """There is no room to build or to run; that says nothing of the network, and the same can be done again once there is."""


class PicturesUnusable(CompilerError):
    """The pictures to calibrate on or to prove a build with cannot be used."""


class BundleInvalid(CompilerError):
    """A bundle is not what its manifest says."""


def is_full(error: BaseException) -> bool:
    """Return whether there was no room on a disk."""
    if isinstance(error, OSError):
        # numpy says that it could not write, and not why; the files that it is given here are on disks.
        return error.errno in (errno.ENOSPC, errno.EDQUOT) or "problem writing element" in str(error)
    return isinstance(error, DiskFull)


def in_words(error: OSError) -> str:
    """Return what the system refused, for people."""
    if is_full(error):
        place = error.filename2 or error.filename or f"{tempfile.gettempdir()} or where the build goes"
        return f"the disk is full: {place}; make room (scratch files lie where TMPDIR says) and do it again"
    return str(error)
