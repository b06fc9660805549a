"""A sample of `make fuzz`, and proof that it would notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from milonga_hub.errors import InvalidInput

from tests.fuzz.__main__ import knock
from tests.fuzz.doors import Door, Doors

_INPUTS = 60


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    made = Doors(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


def test_no_door_does_more_than_refuse(doors: Doors) -> None:
    told = [knock(door, 0, _INPUTS) for door in doors.all()]
    assert {each.door: each.found for each in told if each.found} == {}


def test_every_door_is_knocked_at_with_what_it_refuses(doors: Doors) -> None:
    assert [each.door for each in (knock(door, 0, _INPUTS) for door in doors.all()) if not each.refused] == []


def test_an_error_that_is_no_refusal_is_found_once_for_each_place() -> None:
    def offer(source: object) -> None:
        raise IndexError("nobody thought of it")

    told = knock(Door("careless", 1, offer), 0, 3)
    (found,) = told.found.values()
    assert len(found) == 3 and "input 0 of careless" in found[0] and "nobody thought of it" in found[0]


def test_a_refusal_in_words_is_none() -> None:
    def offer(source: object) -> None:
        raise InvalidInput("no; do this instead")

    told = knock(Door("careful", 1, offer), 0, 3)
    assert told.refused == 3 and told.found == {}
