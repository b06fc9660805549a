"""Names, passwords, waits and the table of who may do what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.accounts import rules
from milonga_hub.accounts.rules_access import GRPC, HTTP, Access, strictest
from milonga_hub.callers import Role
from milonga_hub.errors import InvalidInput

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["kim", "kim@example.org", "k", "0", "a.b-c_d+e"])
def test_names_are_plain(name: str) -> None:
    rules.check_name(name)


@pytest.mark.parametrize("name", ["", "Kim", "-kim", "a b", "kim\n", "<b>", "x" * 64, "김", "local", "a/b"])
def test_names_that_could_be_taken_for_something_else_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="name for an account"):
        rules.check_name(name)


@pytest.mark.parametrize("password", ["short", "x" * 11, "x" * 2000, "abababababababab", "kim@example.org"])
def test_passwords_that_are_easily_guessed_are_refused(password: str) -> None:
    with pytest.raises(InvalidInput):
        rules.check_password("kim@example.org", password)


@given(st.integers(0, 10_000), st.integers(0, 100))
def test_waits_only_grow_and_have_an_end(count: int, free: int) -> None:
    now, after = (rules.wait_until(each, free, NOW) for each in (count, count + 1))
    assert NOW <= now <= after <= NOW + timedelta(minutes=15)
    assert (now == NOW) == (count < free)


def test_who_has_one_ipv6_address_has_all_of_its_network() -> None:
    assert rules.network_of("2001:db8::1") == rules.network_of("2001:db8::ffff:1") != rules.network_of("2001:db8:1::1")
    assert rules.network_of("::ffff:192.0.2.7") == rules.network_of("192.0.2.7") == "192.0.2.7"
    assert rules.network_of("not an address") == "not an address"


@given(st.sampled_from(list(Role)), st.sampled_from(list(Role)))
def test_the_lesser_of_two_roles_may_what_both_may(first: Role, second: Role) -> None:
    lesser = rules.lesser(first, second)
    assert lesser in (first, second) and first.may(lesser) and second.may(lesser)


def test_of_several_rules_the_strictest_holds() -> None:
    everybody, viewer, admin = Access(None), Access(Role.VIEWER), Access(Role.ADMIN, changes=True)
    assert strictest([viewer, admin, everybody]) == admin
    assert strictest([everybody, viewer]) == viewer
    assert strictest([]) is None


def test_strangers_may_only_join_sign_in_and_fetch_what_devices_install() -> None:
    changing = {name for table in (GRPC, HTTP) for name, each in table.items() if each.least is None and each.changes}
    signing_in = {"/milonga.v1.AccountService/SignIn", "POST /sign-in", "GET /sign-in/provider/back"}
    assert changing == {*signing_in, "POST /setup"}
    assert not [name for name, each in HTTP.items() if each.least is None and name.startswith("GET /api/")]


def test_what_is_not_fetched_is_a_change() -> None:
    assert all(each.changes for name, each in HTTP.items() if not name.startswith("GET "))
    # Of looks, only those into a device are written down; who comes back from a provider is led by its address.
    recorded = {name for name, each in HTTP.items() if name.startswith("GET ") and each.changes}
    assert recorded == {
        "GET /api/v1/devices/{device}/log",
        "GET /api/v1/devices/{device}/diagnostics",
        "GET /sign-in/provider/back",
    }
    words = "Get List Watch Query Estimate Download Describe Check ServerReflection Enrol"
    reading = {name for name in GRPC if name.rpartition("/")[2].startswith(tuple(words.split()))}
    assert all(each.changes for name, each in GRPC.items() if name not in reading)
    assert {name for name in reading if GRPC[name].changes} == {"/milonga.v1.DeviceService/GetDeviceLog"}
