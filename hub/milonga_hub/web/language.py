"""In which language pages speak, and their texts in it: English stands in the sources, others in locale/ (docs/translating.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from gettext import GNUTranslations, NullTranslations
from pathlib import Path

from milonga_hub import callers

ENGLISH = "en"
# By the tag that HTML and HTTP have for it, what it calls itself.
NAMES = {ENGLISH: "English", "ko": "한국어"}
FOLDER = Path(__file__).parent / "locale"

_HEARD: ContextVar[str] = ContextVar("language", default=ENGLISH)


def speak(language: str) -> None:
    """Let pages of this request be in the language, unless who asks has chosen another one."""
    _HEARD.set(language if language in NAMES else ENGLISH)


def spoken() -> str:
    """Return the language of the request that is being answered: what its caller chose, else what the browser asks for."""
    caller = callers.current()
    return caller.language if caller is not None and caller.language in NAMES else _HEARD.get()


def asked_for(header: str) -> str:
    """Return which of our languages a header Accept-Language likes best; English where it names none of them."""
    ranked = sorted(_ranges(header), key=lambda found: -found[1])
    for tag, quality in ranked:
        # Who reads Korean as it is written in Korea reads Korean.
        language = tag.lower().partition("-")[0]
        if quality > 0 and language in NAMES:
            return language
    return ENGLISH


def _ranges(header: str) -> Iterator[tuple[str, float]]:
    """Yield the tags with their quality: "ko-KR,en;q=0.8" is ("ko-KR", 1.0), ("en", 0.8)."""
    for part in header.split(","):
        tag, _, parameter = part.strip().partition(";")
        key, _, value = parameter.strip().partition("=")
        try:
            yield tag.strip(), float(value) if key.strip() == "q" else 1.0
        except ValueError:
            continue


@cache
def catalogue(language: str) -> NullTranslations:
    if language == ENGLISH:
        return NullTranslations()
    with (FOLDER / language / "LC_MESSAGES" / "milonga.mo").open("rb") as file:
        return GNUTranslations(file)


def N_(message: str) -> str:
    """Mark a text that is translated where it is shown."""
    return message


def gettext(message: str, **values: object) -> str:
    """Return the text in the language that is spoken, with values in place of %(name)s."""
    text = catalogue(spoken()).gettext(message) if message else ""
    return text % values if values else text


def ngettext(one: str, many: str, num: int, **values: object) -> str:
    """Return the text for this number, which stands in it as %(num)s."""
    return catalogue(spoken()).ngettext(one, many, num) % {"num": num, **values}


def pgettext(context: str, message: str) -> str:
    """Return the text of a word that means several things; the context tells which."""
    return catalogue(spoken()).pgettext(context, message)


# Templates put in values by themselves, escaped.
def template_gettext(message: str) -> str:
    return catalogue(spoken()).gettext(message) if message else ""


def template_ngettext(one: str, many: str, num: int) -> str:
    return catalogue(spoken()).ngettext(one, many, num)


def template_npgettext(context: str, one: str, many: str, num: int) -> str:
    return catalogue(spoken()).npgettext(context, one, many, num)
