"""Pictures of pages that tests keep beside their run, to look at: artifacts/screenshots."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

FOLDER = Path(__file__).parent.parent.parent / "artifacts" / "screenshots"
_WIDTHS = (1280, 390)


def keep_as_it_is(page: Page, name: str) -> None:
    """Write the whole page at the width that it has now."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=FOLDER / f"{name}.png", full_page=True)


def keep(page: Page, name: str) -> None:
    """Write the whole page as it looks on a desk and on a phone, by day and by night; it then is as it was."""
    before = page.viewport_size
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in _WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            keep_as_it_is(page, f"{name}-{width}-{scheme}")
    page.emulate_media(color_scheme=None)
    if before is not None:
        page.set_viewport_size(before)
