"""A target: which engine runs the network, and in which numbers."""

from __future__ import annotations

from dataclasses import dataclass

from milonga_compiler.errors import UnknownTarget


@dataclass(frozen=True)
class Target:
    """An engine and a precision, written "onnxruntime/int8"."""

    engine: str
    precision: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Return the target. Raises UnknownTarget where the text is no target, or nothing here builds it."""
        engine, slash, precision = text.strip().partition("/")
        if not slash or not engine or not precision:
            raise UnknownTarget(
                f"{text!r} is not a target; write engine/precision, one of: {', '.join(known_targets())}"
            )
        if text.strip() not in known_targets():
            raise UnknownTarget(f"nothing builds {text.strip()}; there are: {', '.join(known_targets())}")
        return cls(engine, precision)

    def __str__(self) -> str:
        return f"{self.engine}/{self.precision}"


# Engine -> precisions. One entry for each file in backends/; a test compares the two.
ENGINES = {
    "onnxruntime": ("fp32", "int8"),
    "reference": ("fp32",),
}


def known_targets() -> list[str]:
    """Return all targets that can be built, as text."""
    return [f"{engine}/{precision}" for engine, precisions in ENGINES.items() for precision in precisions]
