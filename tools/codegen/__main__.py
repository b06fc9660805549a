"""Write the typed services again: python -m tools.codegen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.codegen.describe import described
from tools.codegen.services import ASYNC, SYNC, source

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "protos" / "milonga" / "client"


def main() -> None:
    """Write all files."""
    services = described()
    written = [CLIENT / "services.py", CLIENT / "async_services.py"]
    for path, flavour in zip(written, (SYNC, ASYNC), strict=True):
        path.write_text(source(services, flavour), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", *written], check=True)


if __name__ == "__main__":
    main()
