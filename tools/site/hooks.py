"""What mkdocs calls as it builds the site: mkdocs.yml names this file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tools.site import pages

# Made by tools.site.reference, before.
_REFERENCE = pages.ROOT / ".docs" / "reference"


def on_config(config: Any) -> Any:
    """Find the pages that the navigation does not name one by one."""
    docs = pages.ROOT / "docs"
    found = [path.relative_to(docs).as_posix() for path in docs.rglob("*.md")]
    config.nav = pages.navigation(config.nav, [*found, pages.DECISIONS])
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    texts = {name: (pages.ROOT / source).read_text(encoding="utf-8") for name, source in pages.BESIDE.items()}
    texts[pages.DECISIONS] = pages.decisions()
    texts.update({f"reference/{path.name}": path.read_text(encoding="utf-8") for path in _REFERENCE.glob("*.md")})
    for name, text in sorted(texts.items()):
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return the page's text as the site needs it."""
    return pages.rewritten(markdown, page.file.src_uri)
