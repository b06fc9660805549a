"""The selector language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.devices.selectors import Condition, Operator, Selector, parse
from milonga_hub.errors import InvalidInput

PI = {"type": "pi5", "site": "busan", "arch": "aarch64", "name": "pi-1"}

_KEYS = st.from_regex(r"[A-Za-z0-9._/:@+-]+", fullmatch=True)
_VALUES = st.text(max_size=12)
_CONDITIONS = st.one_of(
    st.builds(Condition, _KEYS, st.sampled_from([Operator.EXISTS, Operator.MISSING])),
    st.builds(Condition, _KEYS, st.sampled_from([Operator.EQUALS, Operator.DIFFERS]), st.tuples(_VALUES)),
    st.builds(
        Condition,
        _KEYS,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.lists(_VALUES, min_size=1, max_size=4).map(tuple),
    ),
)
_SELECTORS = st.lists(_CONDITIONS, max_size=4).map(lambda conditions: Selector(tuple(conditions)))


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("  ", True),
        ("type in (pi5, pi4), site=busan, !canary, arch!=x86_64", True),
        ("type == pi5", True),
        ("type=pi4", False),
        ("type notin (pi4)", True),
        ("type notin (pi4, pi5)", False),
        ("canary", False),
        ("site", True),
        ("!site", False),
        ("canary!=yes", True),
        ("canary=yes", False),
        ("in in (in)", False),
        ('site="busan"', True),
        ('site=""', False),
        ("name=pi-1,site=busan", True),
    ],
)
def test_a_selector_says_which_devices_it_means(text: str, matches: bool) -> None:
    assert parse(text).matches(PI) is matches


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("type=", "expected a value, found the end at position 6"),
        ("type in pi5", "expected '\\(', found 'pi5' at position 9"),
        ("type in (pi5", "expected '\\)', found the end at position 13"),
        ("type in ()", "expected a value, found '\\)' at position 10"),
        ("a=b,", "expected a key, found the end at position 5"),
        ("a=b c=d", "expected a comma, found 'c' at position 5"),
        ("a is b", "expected =, !=, in, notin or a comma, found 'is' at position 3"),
        ("a=b; c", "unexpected ';' at position 4"),
        ('a="b', "a quote that is not closed at position 3"),
        (",", "expected a key, found ',' at position 1"),
    ],
)
def test_a_selector_that_goes_wrong_says_where(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        parse(text)


@given(_SELECTORS)
def test_a_selector_written_down_reads_back_the_same(selector: Selector) -> None:
    assert parse(str(selector)) == selector


@given(st.one_of(st.text(), st.text(alphabet='ab=!,() "\\in\n')))
def test_any_text_is_a_selector_or_invalid_input(text: str) -> None:
    try:
        selector = parse(text)
    except InvalidInput:
        return
    assert parse(str(selector)) == selector
    selector.matches(PI)
