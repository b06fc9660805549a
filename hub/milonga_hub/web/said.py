"""Sentences that the hub keeps as text, such as why a run ended, in the language of who reads them.

They are stored and sent in English, for programs and logs as well; pages recognise them by their pattern. What is not
listed, such as errors of engines and what devices say, stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache

from milonga_hub.web.language import ENGLISH, catalogue, spoken
from milonga_hub.web.messages import MESSAGES

# What these stand for is a sentence of the hub again, and these a word of terms.py, or several with commas between them.
_SENTENCES, _TERMS = ("why", "more"), ("state", "wanted", "role", "least", "signals")
_LONGEST = 2000
_DEEPEST = 8


@dataclass(frozen=True)
class _Pattern:
    """A message's fixed parts, and the names of what stands between them."""

    message: str
    parts: tuple[str, ...]
    names: tuple[str, ...]

    def match(self, text: str) -> dict[str, str] | None:
        """Return what stands for each name. In one pass: texts may come from anywhere."""
        if not text.startswith(self.parts[0]):
            return None
        at, values = len(self.parts[0]), {}
        for index, name in enumerate(self.names):
            literal = self.parts[index + 1]
            is_last = index + 1 == len(self.names)
            end = len(text) - len(literal) if is_last and text.endswith(literal) else text.find(literal, at)
            if end <= at or (is_last and end + len(literal) != len(text)):
                return None
            values[name] = text[at:end]
            at = end + len(literal)
        return values


@cache
def _patterns() -> tuple[_Pattern, ...]:
    """Return the messages that have names in them: before those that begin with a name, which may be anything, those that begin with
    fixed text; of these and those the ones with more of it first."""
    found = []
    for message in MESSAGES:
        pieces = re.split(r"%\((\w+)\)s", message)
        if len(pieces) > 1:
            found.append(_Pattern(message, tuple(part.replace("%%", "%") for part in pieces[::2]), tuple(pieces[1::2])))
    return tuple(sorted(found, key=lambda each: (not each.parts[0], -sum(map(len, each.parts)))))


@cache
def _fixed() -> frozenset[str]:
    return frozenset(message for message in MESSAGES if "%(" not in message)


def said(text: str) -> str:
    """Return the sentence in the language that is spoken, or as it is where it is not one of the hub's."""
    language = spoken()
    return text if language == ENGLISH or not text else _said(language, text, 0)


@lru_cache(maxsize=4096)
def _said(language: str, text: str, depth: int) -> str:
    if len(text) > _LONGEST or depth > _DEEPEST:
        return text
    if text in _fixed():
        return catalogue(language).gettext(text)
    for pattern in _patterns():
        values = pattern.match(text)
        if values is not None:
            told = {name: _told(language, name, value, depth) for name, value in values.items()}
            return catalogue(language).gettext(pattern.message) % told
    return text


def _told(language: str, name: str, value: str, depth: int) -> str:
    if name in _TERMS:
        return ", ".join(catalogue(language).gettext(word) for word in value.split(", "))
    return _said(language, value, depth + 1) if name in _SENTENCES else value
