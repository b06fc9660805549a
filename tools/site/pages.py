"""Which pages the site has, where each comes from, and its text as the site needs it.

The files of docs/ are written to be read in the repository, so links that lead out of it become plain paths here.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
# Pages of the site that lie beside docs/ in the repository.
BESIDE = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
DECISIONS = "adr/index.md"
# Sections whose pages are those of a folder: what is written there is found by itself.
_FOLDERS = {"Clients and the API": "api", "Decisions": "adr"}
_MORE = "More"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_ITEM = re.compile(r"\s*([-*]|\d+\.) ")

Navigation = list[dict[str, Any]]


def navigation(written: Navigation, pages: Iterable[str]) -> Navigation:
    """Return mkdocs.yml's navigation with the pages of folders, and last those of docs/ that it does not name."""
    known, left = set(named(written)), []
    folders: dict[str, list[str]] = {folder: [] for folder in _FOLDERS.values()}
    for page in sorted(pages, key=lambda page: (not page.endswith("index.md"), page)):
        if (folder := posixpath.dirname(page)) in folders:
            folders[folder].append(page)
        elif page not in known:
            left.append(page)
    found = [dict(section) for section in written]
    found += [{title: folders[folder]} for title, folder in _FOLDERS.items() if folders[folder]]
    return [*found, {_MORE: left}] if left else found


def named(nav: Any) -> Iterator[str]:
    """Yield every page that a navigation names."""
    if isinstance(nav, str):
        yield nav
    else:
        for one in nav.values() if isinstance(nav, Mapping) else nav:
            yield from named(one)


def rewritten(markdown: str, here: str) -> str:
    """Return a page's text with links of the site, and with the empty lines that its Markdown wants."""
    return "\n".join(_spaced(_replaced(markdown, here)))


def _replaced(markdown: str, here: str) -> Iterator[str]:
    """Yield lines with their links replaced; code stays as it is."""
    fenced = False
    for line in markdown.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        yield line if fenced else _LINK.sub(lambda match: _link(match, here), line)


def _link(match: re.Match[str], here: str) -> str:
    picture, text, target = match.groups()
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return match.group()
    found = of_site(posixpath.normpath(posixpath.join(posixpath.dirname(of_repository(here)), path)))
    if found is None:
        # It is in the repository alone; its name is often the text already.
        return text if "`" in text or text == path else f"{text} (`{path.lstrip('./')}`)"
    return f"{picture}[{text}]({posixpath.relpath(found, posixpath.dirname(here) or '.')}{hash_}{anchor})"


def of_repository(page: str) -> str:
    """Return where in the repository a page of the site comes from."""
    return BESIDE.get(page, f"docs/{page}")


def of_site(path: str) -> str | None:
    """Return the page or file of the site that a path in the repository is, None where it is not on the site."""
    for page, source in BESIDE.items():
        if path == source:
            return page
    if path == "docs/adr":
        return DECISIONS
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def _spaced(lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines with an empty one before lists and tables that follow a line of text."""
    before, fenced = "", False
    for line in lines:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        begins = _ITEM.match(line) or line.startswith("|")
        goes_on = _ITEM.match(before) or before.startswith((" ", "|")) or not before
        if begins and not fenced and not goes_on and not line.startswith(" "):
            yield ""
        yield line
        before = line


def decisions() -> str:
    """Return a page that lists the decisions by number."""
    rows = []
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        rows.append(f"- [{title}]({path.name})")
    return "\n".join(["# Decisions", "", "Why things are as they are, one page each.", "", *rows, ""])
