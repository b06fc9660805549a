"""The address that stands in commands for other machines."""

from __future__ import annotations

import pytest
from milonga_hub.install import reach
from milonga_hub.install.reach import address_for_others


def test_the_name_by_which_a_browser_came_is_right_for_others_too() -> None:
    assert address_for_others("hub.example:8080", "0.0.0.0") == ("hub.example:8080", True)


def test_a_hub_that_listens_to_itself_alone_is_said_to_be_out_of_reach() -> None:
    assert address_for_others("127.0.0.1:8080", "127.0.0.1") == ("127.0.0.1:8080", False)
    assert address_for_others("[::1]:8080", "localhost") == ("[::1]:8080", False)


def test_a_browser_on_the_hub_itself_gets_the_address_that_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_outward_address", lambda: "192.0.2.7")
    assert address_for_others("localhost:8080", "0.0.0.0") == ("192.0.2.7:8080", True)
    monkeypatch.setattr(reach, "_outward_address", lambda: None)
    assert address_for_others("localhost:8080", "0.0.0.0") == ("localhost:8080", False)
