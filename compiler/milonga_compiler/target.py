"""A target: which engine runs the network, and in which numbers."""

from __future__ import annotations

from dataclasses import dataclass

from milonga_compiler.engines import ENGINES, Precision
from milonga_compiler.errors import UnknownTarget


@dataclass(frozen=True)
class Target:
    """An engine and a precision, written "onnxruntime/int8", and which processors it is for.

    `architecture` is as `uname -m` says; empty means this machine's. Only engines that compile to machine code need it.
    """

    engine: str
    precision: Precision
    architecture: str = ""

    @classmethod
    def parse(cls, text: str, architecture: str = "") -> Target:
        """Return the target. Raises UnknownTarget where the text is no target, or nothing here builds it."""
        engine, slash, precision = text.strip().partition("/")
        if not slash or not engine or not precision:
            raise UnknownTarget(
                f"{text!r} is not a target; write engine/precision, one of: {', '.join(known_targets())}"
            )
        if text.strip() not in known_targets():
            raise UnknownTarget(f"nothing builds {text.strip()}; there are: {', '.join(known_targets())}")
        return cls(engine, Precision(precision), architecture)

    def __str__(self) -> str:
        return f"{self.engine}/{self.precision}"


def known_targets() -> list[str]:
    """Return all targets that can be built, as text."""
    return [f"{name}/{precision}" for name, engine in ENGINES.items() for precision in engine.precisions]
