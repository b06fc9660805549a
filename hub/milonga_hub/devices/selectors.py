"""Which devices are meant: `type in (pi5, pi4), site=busan, !canary, arch!=x86_64`.

A selector is a list of conditions joined by commas; a device matches when all of them hold. Keys are labels and the
built-ins name, type, simulated and state. `key!=value` and `key notin (...)` also hold where the key is missing.
Values with other characters than letters, digits and `. _ / : @ + -` stand in double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from milonga_hub.errors import InvalidInput

_WORD = re.compile(r"[A-Za-z0-9._/:@+-]+")
_QUOTED = re.compile(r'"(?:[^"\\]|\\["\\])*"')
_SYMBOL = re.compile(r"==|!=|[=!,()]")
_SPACE = re.compile(r"[ \t\r\n]+")
_END = "the end"


class Operator(StrEnum):
    EQUALS = "="
    DIFFERS = "!="
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    MISSING = "missing"


@dataclass(frozen=True)
class Condition:
    """One part between two commas."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, attributes: Mapping[str, str]) -> bool:
        value = attributes.get(self.key)
        if self.operator is Operator.EXISTS:
            return value is not None
        if self.operator is Operator.MISSING:
            return value is None
        wanted = value is not None and value in self.values
        return wanted if self.operator in (Operator.EQUALS, Operator.IN) else not wanted

    def __str__(self) -> str:
        if self.operator is Operator.EXISTS:
            return self.key
        if self.operator is Operator.MISSING:
            return f"!{self.key}"
        if self.operator in (Operator.EQUALS, Operator.DIFFERS):
            return f"{self.key}{self.operator}{_spelled(self.values[0])}"
        return f"{self.key} {self.operator} ({', '.join(_spelled(value) for value in self.values)})"


@dataclass(frozen=True)
class Selector:
    """A parsed selector; str() gives a text that parses to an equal one."""

    conditions: tuple[Condition, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """Return the keys that decide."""
        return frozenset(condition.key for condition in self.conditions)

    def matches(self, attributes: Mapping[str, str]) -> bool:
        return all(condition.holds(attributes) for condition in self.conditions)

    def __str__(self) -> str:
        return ", ".join(str(condition) for condition in self.conditions)


@lru_cache(maxsize=256)
def parse(text: str) -> Selector:
    """Return the selector; "" matches everything. Raises InvalidInput that says where the text goes wrong."""
    parser = _Parser(text)
    return parser.selector()


def _spelled(value: str) -> str:
    if _WORD.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class _Token:
    # "word", "quoted", "symbol" or "end".
    kind: str
    text: str
    position: int

    def __str__(self) -> str:
        return _END if self.kind == "end" else repr(self.text)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while position < len(text):
        if space := _SPACE.match(text, position):
            position = space.end()
        elif word := _WORD.match(text, position):
            tokens.append(_Token("word", word.group(), position))
            position = word.end()
        elif quoted := _QUOTED.match(text, position):
            value = re.sub(r"\\(.)", r"\1", quoted.group()[1:-1])
            tokens.append(_Token("quoted", value, position))
            position = quoted.end()
        elif symbol := _SYMBOL.match(text, position):
            tokens.append(_Token("symbol", symbol.group(), position))
            position = symbol.end()
        elif text[position] == '"':
            raise _error(text, position, "a quote that is not closed")
        else:
            raise _error(text, position, f"unexpected {text[position]!r}")
    tokens.append(_Token("end", "", len(text)))
    return tokens


def _error(text: str, position: int, problem: str) -> InvalidInput:
    return InvalidInput(
        f"selector {text!r}: {problem} at position {position + 1}; "
        'write conditions such as type=pi5, site in (busan, seoul), canary, !canary, arch!="x86 64"'
    )


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._index = 0

    def selector(self) -> Selector:
        if self._next.kind == "end":
            return Selector()
        conditions = [self._condition()]
        while self._take_symbol(","):
            conditions.append(self._condition())
        if self._next.kind != "end":
            raise self._expected("a comma")
        return Selector(tuple(conditions))

    @property
    def _next(self) -> _Token:
        return self._tokens[self._index]

    def _condition(self) -> Condition:
        if self._take_symbol("!"):
            return Condition(self._word("a key"), Operator.MISSING)
        key = self._word("a key")
        if self._take_symbol("=") or self._take_symbol("=="):
            return Condition(key, Operator.EQUALS, (self._value(),))
        if self._take_symbol("!="):
            return Condition(key, Operator.DIFFERS, (self._value(),))
        if self._next.kind == "word":
            word = self._next
            if word.text not in (Operator.IN, Operator.NOT_IN):
                raise self._expected("=, !=, in, notin or a comma")
            self._index += 1
            return Condition(key, Operator(word.text), self._values())
        return Condition(key, Operator.EXISTS)

    def _values(self) -> tuple[str, ...]:
        if not self._take_symbol("("):
            raise self._expected("'('")
        values = [self._value()]
        while self._take_symbol(","):
            values.append(self._value())
        if not self._take_symbol(")"):
            raise self._expected("')'")
        return tuple(values)

    def _value(self) -> str:
        if self._next.kind == "quoted":
            self._index += 1
            return self._tokens[self._index - 1].text
        return self._word("a value")

    def _word(self, what: str) -> str:
        if self._next.kind != "word":
            raise self._expected(what)
        self._index += 1
        return self._tokens[self._index - 1].text

    def _take_symbol(self, symbol: str) -> bool:
        if self._next.kind == "symbol" and self._next.text == symbol:
            self._index += 1
            return True
        return False

    def _expected(self, what: str) -> InvalidInput:
        return _error(self._text, self._next.position, f"expected {what}, found {self._next}")
