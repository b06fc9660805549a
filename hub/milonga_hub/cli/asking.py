"""Ask a person before what cannot be undone, and only about what there is."""

from __future__ import annotations

from collections.abc import Callable

import typer

from milonga_hub.cli.failures import Refused


def ask(question: str, otherwise: str, look: Callable[[], object]) -> None:
    """Return where a person says yes. Raises Refused with `otherwise` where not, and whatever `look` raises at what is not there."""
    look()
    if not typer.confirm(question):
        raise Refused(otherwise)
