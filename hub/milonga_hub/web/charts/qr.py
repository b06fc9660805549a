"""A text as a QR code, for cameras of phones."""

from __future__ import annotations

from markupsafe import Markup, escape


def qr(text: str, words: str) -> Markup:
    """Return the code as SVG; `words` say to those who cannot see it what it holds."""
    import segno  # Here: one page in a fleet's life needs it.

    code = segno.make(text, error="m", micro=False)
    svg = code.svg_inline(svgclass="qr", lineclass=None, omitsize=True, border=4)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(words)}" ', 1))  # noqa: S704 (segno's own)
