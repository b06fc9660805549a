"""What can go wrong in a build. Messages say what to do next."""

from __future__ import annotations


class CompilerError(Exception):
    """Base of all errors of this package; the message is for people."""


class UnknownTarget(CompilerError):
    """No such engine or precision."""


class EngineMissing(CompilerError):
    """The engine's own packages are not installed here."""


class BuildFailed(CompilerError):
    """The engine could not build the network."""


class CannotRunHere(CompilerError):
    """The engine builds for hardware that this machine is not; the build is BUILT and nobody has seen it run."""


class PicturesUnusable(CompilerError):
    """The pictures to calibrate on or to prove a build with cannot be used."""


class BundleInvalid(CompilerError):
    """A bundle is not what its manifest says."""
