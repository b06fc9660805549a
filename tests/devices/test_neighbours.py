"""Who is whose neighbour, and who may have a file."""

from __future__ import annotations

import pytest
from milonga import tickets
from milonga_hub.devices.models import Assignment, File
from milonga_hub.devices.rules_neighbours import Cache, check, least_asked_first, may_have, network_of
from milonga_hub.errors import InvalidInput


@pytest.mark.parametrize(
    ("one", "other", "are_neighbours"),
    [
        ("192.168.1.7", "192.168.1.99", True),
        ("192.168.1.7", "192.168.2.7", False),
        # Behind one router, and behind two of one provider.
        ("203.0.113.7", "203.0.113.7", True),
        ("8.8.8.7", "8.8.8.8", False),
        ("100.64.0.7", "100.64.0.8", False),
        ("::ffff:10.0.0.1", "10.0.0.2", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_neighbours_are_told_by_where_the_hub_sees_them_come_from(one: str, other: str, are_neighbours: bool) -> None:
    assert (network_of({}, one) == network_of({}, other)) is are_neighbours


def test_a_label_says_more_than_addresses() -> None:
    first_floor, second_floor = {"network": "first-floor"}, {"network": "second-floor"}
    assert network_of(first_floor, "10.0.0.1") == network_of(first_floor, "10.9.0.1")
    assert network_of(first_floor, "10.0.0.1") != network_of(second_floor, "10.0.0.1")
    assert network_of(first_floor, "10.0.0.1") != network_of({}, "10.0.0.1")


def test_who_is_assigned_a_file_has_it_or_is_fetching_it_until_it_gave_up() -> None:
    assignment = Assignment(
        device="pi-1", generation=3, bundle="b3", files=[File(path="m", digest="d", size_bytes=1)], project="p"
    )
    assert may_have(assignment, "d", reported_generation=2, active_bundle="b2")
    assert may_have(assignment, "d", reported_generation=3, active_bundle="b3")
    assert not may_have(assignment, "d", reported_generation=3, active_bundle="b2")
    assert not may_have(assignment, "another", reported_generation=2, active_bundle="b2")
    assert not may_have(None, "d", reported_generation=0, active_bundle="")


def test_caches_take_turns() -> None:
    assert least_asked_first(["a", "b", "c"], {"a": 2, "b": 1}) == ["c", "b", "a"]


@pytest.mark.parametrize("address", ["hub.example:8600", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:70000", "10.0.0.1:²"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match="ADDRESS:PORT"):
        check(Cache((address,), bytes(32)), "10.0.0.1")


@pytest.mark.parametrize(
    ("address", "seen_at"),
    [
        # Nobody is sent to machines of others, or to itself.
        ("8.8.8.8:443", "9.9.9.9"),
        ("127.0.0.1:22", "10.0.0.1"),
        ("[::1]:22", "fd00::1"),
        ("0.0.0.0:22", "10.0.0.1"),
        ("224.0.0.1:22", "10.0.0.1"),
    ],
)
def test_an_address_where_the_device_cannot_be_is_refused(address: str, seen_at: str) -> None:
    with pytest.raises(InvalidInput, match="where the device is"):
        check(Cache((address,), bytes(32)), seen_at)


@pytest.mark.parametrize(
    ("address", "seen_at"),
    [
        ("10.0.0.1:8600", "10.0.0.1"),
        ("[fd00::1]:8600", "10.0.0.1"),
        ("192.168.1.7:8600", "9.9.9.9"),
        ("9.9.9.9:8600", "::ffff:9.9.9.9"),
        ("127.0.0.1:8600", "::1"),
        # Through a proxy on the hub's machine.
        ("10.0.0.1:8600", "127.0.0.1"),
    ],
)
def test_an_address_of_the_devices_own_network_is_taken(address: str, seen_at: str) -> None:
    check(Cache((address,), bytes(32)), seen_at)
    with pytest.raises(InvalidInput, match="32 bytes"):
        check(Cache((address,), b""), seen_at)
    check(Cache(), seen_at)


def test_a_ticket_is_good_for_what_it_was_given_for_and_nothing_else() -> None:
    key = tickets.new_key()
    ticket = tickets.issue(key, "pi-1", "sha256:aa", 1000)
    assert tickets.is_good(key, ticket, "pi-1", "sha256:aa", 999.0)
    assert not tickets.is_good(key, ticket, "pi-1", "sha256:aa", 1000.0)
    assert not tickets.is_good(key, ticket, "pi-2", "sha256:aa", 999.0)
    assert not tickets.is_good(key, ticket, "pi-1", "sha256:bb", 999.0)
    assert not tickets.is_good(tickets.new_key(), ticket, "pi-1", "sha256:aa", 999.0)
    assert not tickets.is_good(key, ticket.replace("1000", "9999"), "pi-1", "sha256:aa", 999.0)


@pytest.mark.parametrize("ticket", ["", ".", "²." + "0" * 64, "1" * 500, "1000." + "é" * 64, "-1.00", "1000"])
def test_what_is_no_ticket_is_none(ticket: str) -> None:
    assert not tickets.is_good(tickets.new_key(), ticket, "pi-1", "sha256:aa", 0.0)
