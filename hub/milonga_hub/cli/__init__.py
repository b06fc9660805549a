"""`milonga`: the command line, the first client of the hub's gRPC API."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from milonga.unread import quiet_when_unread

from milonga_hub.cli.verbs import app, command


@quiet_when_unread
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; whatever goes wrong is said in a sentence on stderr."""
    # gRPC and the domain errors are known to client.py; nothing else may end in a traceback.
    from milonga_hub.cli.client import explain

    try:
        command()(args=None if arguments is None else list(arguments), prog_name="milonga")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        message, code = explain(error)
        print(f"milonga: {message}", file=sys.stderr)
        return code
    return 0


__all__ = ["app", "main"]
