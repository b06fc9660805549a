"""Lists read item by item are what the whole would be, wherever the file is cut into pieces."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milonga_hub.datasets.json_items import Items
from milonga_hub.errors import InvalidInput

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def _read(data: bytes, chunk_bytes: int = 1 << 20) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, place, value in Items("a.json", io.BytesIO(data), chunk_bytes):
        if place is None:
            found[key] = value
        else:
            found.setdefault(key, []).append(value)
            assert len(found[key]) == place + 1
    return found


@settings(max_examples=60)
@given(
    st.dictionaries(st.text(max_size=4), VALUES, max_size=4),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_items_are_those_of_the_whole_however_it_is_cut(
    content: dict[str, Any], chunk_bytes: int, is_ascii: bool, indent: int | None
) -> None:
    data = json.dumps(content, ensure_ascii=is_ascii, indent=indent).encode()
    assert _read(data, chunk_bytes) == content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "character 0 on: { is missing"),
        ("[1]", "character 0 on: { is missing"),
        ('{"a": [1, 2', "character 11 on: , or ] is missing"),
        ('{"a": [1, {"b"', "character 14 on: Expecting ':' delimiter"),
        ('{"a": nothing}', "character 6 on: Expecting value"),
        ('{"a": 1} x', "character 9 on: there is something after its end"),
        ("{1: 2}", "a key is no text"),
        ('{"a": ' + "[" * 100_000, "nests too deep"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        _read(text.encode())
    assert words in str(refused.value)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidInput, match="not written in UTF-8"):
        _read(b'{"a": "\xff"}')
