"""Write the typed services and their pages again: python -m tools.codegen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.codegen.asyncapi import asyncapi
from tools.codegen.describe import described
from tools.codegen.pages import EXAMPLES, pages
from tools.codegen.services import ASYNC, SYNC, source

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "protos" / "milonga" / "client"
PAGES = EXAMPLES.parent


def main() -> None:
    """Write all files."""
    services = described()
    written = [CLIENT / "services.py", CLIENT / "async_services.py"]
    for path, flavour in zip(written, (SYNC, ASYNC), strict=True):
        path.write_text(source(services, flavour), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", *written], check=True)
    for name, text in pages(services).items():
        (PAGES / name).write_text(text, encoding="utf-8")
    (PAGES / "asyncapi.yaml").write_text(asyncapi(), encoding="utf-8")


if __name__ == "__main__":
    main()
