"""The address that stands in commands for other machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from milonga_hub.install import reach
from milonga_hub.install.reach import address_for_others, pages_for_others
from milonga_hub.settings import Settings


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


def test_the_pages_of_a_hub_that_runs_are_where_it_says_and_else_where_it_is_set_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "_outward_address", lambda: "192.0.2.7")
    settings = Settings(data_dir=tmp_path, http_port=8081)
    assert pages_for_others(settings) == ("http://127.0.0.1:8081", False)
    (tmp_path / "hub.json").write_text(json.dumps({"http": "0.0.0.0:9090", "scheme": "https"}), encoding="utf-8")
    assert pages_for_others(settings) == ("https://192.0.2.7:9090", True)
