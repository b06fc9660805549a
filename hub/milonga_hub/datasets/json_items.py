"""Read a JSON object of long lists item by item, so that a file of any size takes the memory of one item.

Each item is read by the standard library's decoder, in C. ijson reads one list in a pass, or makes each item of events in Python: for the
three lists of a COCO file it took five times as long, and 27 times without its C library.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from itertools import count
from typing import IO, Any, NamedTuple

from milonga_hub.errors import InvalidInput

_CHUNK_BYTES = 1 << 20
# An item is a picture or a box with its outline; a mask of a large picture takes some hundred thousand characters.
MAX_ITEM_CHARACTERS = 16 << 20
_SPACE = " \t\n\r"
_OF_NUMBERS, _LONGEST_TAIL = "0123456789.eE+-", 8


class Item(NamedTuple):
    """One item of a list at the top of the object; `place` is None of what is no list, and of the list that is empty."""

    key: str
    place: int | None
    value: Any


class Items:
    """Yields what is in the object, in its order. Raises InvalidInput where it is no JSON, saying where."""

    def __init__(self, path: str, file: IO[bytes], chunk_bytes: int = _CHUNK_BYTES) -> None:
        self._path = path
        self._file = file
        self._chunk_bytes = chunk_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._text, self._at, self._before = "", 0, 0
        self._ended = False

    def __iter__(self) -> Iterator[Item]:
        self._take("{")
        if self._peek() == "}":
            self._at += 1
        else:
            yield from self._members()
        if self._peek():
            raise self._wrong("there is something after its end")

    def _members(self) -> Iterator[Item]:
        while True:
            key = self._value()
            if not isinstance(key, str):
                raise self._wrong("a key is no text")
            self._take(":")
            if self._peek() == "[":
                yield from self._list(key)
            else:
                yield Item(key, None, self._value())
            if self._take(",}") == "}":
                return

    def _list(self, key: str) -> Iterator[Item]:
        self._take("[")
        if self._peek() == "]":
            self._at += 1
            yield Item(key, None, [])
            return
        for place in count():
            yield Item(key, place, self._value())
            if self._take(",]") == "]":
                return

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    raise self._wrong(error.msg, error.pos) from error
                self._more()
                continue
            except (RecursionError, ValueError) as error:
                raise self._wrong("it nests too deep or has a number that is too long") from error
            # A number at the end of what was read may go on: of "1.5" the first two characters are one too.
            is_cut = isinstance(value, int | float) and not self._text[end : end + _LONGEST_TAIL].strip(_OF_NUMBERS)
            if self._ended or not is_cut:
                self._at = end
                return value
            self._more()

    def _take(self, wanted: str) -> str:
        found = self._peek()
        if not found or found not in wanted:
            raise self._wrong(f"{' or '.join(wanted)} is missing")
        self._at += 1
        return found

    def _peek(self) -> str:
        """Return the next character that is no space, "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on, twice as much each time that an item is not whole; whether there was more."""
        if self._ended:
            return False
        left = len(self._text) - self._at
        if left > MAX_ITEM_CHARACTERS:
            raise self._wrong(f"an item takes more than {MAX_ITEM_CHARACTERS:,} characters, or is not whole")
        data = self._file.read(max(self._chunk_bytes, left))
        self._ended = not data
        try:
            text = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise self._wrong("it is not written in UTF-8") from error
        self._before += self._at
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(text) or not self._ended

    def _wrong(self, why: str, at: int | None = None) -> InvalidInput:
        place = self._before + (self._at if at is None else at)
        return InvalidInput(f"{self._path} is no JSON from its character {place:,} on: {why}; export it again")
