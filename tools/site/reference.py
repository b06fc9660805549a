"""Write the reference pages into a folder: python -m tools.site.reference FOLDER"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tools.site import api, boards, commands, files, metrics

# By their names in the site's navigation, below reference/.
PAGES: dict[str, Callable[[], str]] = {
    "milonga.md": commands.milonga,
    "milonga-agent.md": commands.milonga_agent,
    "milonga-compiler.md": commands.milonga_compiler,
    "settings.md": files.settings,
    "files.md": files.written,
    "grpc.md": api.api,
    "metrics.md": metrics.metrics,
    "boards.md": boards.boards,
}

# Search finds guides before them.
_BEHIND = "---\nsearch: {boost: 0.3}\n---\n"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in PAGES.items():
        (folder / name).write_text(_BEHIND + made(), encoding="utf-8")
        print(f"reference/{name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
