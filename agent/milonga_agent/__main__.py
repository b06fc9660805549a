"""`python -m milonga_agent` is `milonga-agent`."""

from __future__ import annotations

import sys

from milonga_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
