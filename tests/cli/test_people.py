"""Who may what over gRPC, as the command line meets it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from milonga.client import keys
from milonga.client.channel import open_channel
from milonga.v1 import accounts_pb2 as pb
from milonga_hub.accounts.rules_access import GRPC
from milonga_hub.callers import Caller, CallerKind, Role

from tests.cli.conftest import Cli

PASSWORD = "seven wooden floors"
LOCAL = Caller("local", CallerKind.LOCAL, Role.ADMIN)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what these tests log in to away from the user's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture
def stranger(empty: Cli) -> Iterator[grpc.Channel]:
    with open_channel(empty.address, empty.hub.devices.authority.certificate.decode()) as channel:
        yield channel


def _called(channel: grpc.Channel, method: str) -> tuple[grpc.StatusCode, bytes]:
    """Call the method with an empty request; whatever it is, the answer to who may not is the same."""
    call: Any = channel.unary_unary(method)
    try:
        return grpc.StatusCode.OK, call(b"", timeout=60)
    except grpc.RpcError as error:
        failed: Any = error
        return failed.code(), b""


def _types(stdin: pytest.MonkeyPatch, *lines: str) -> None:
    stdin.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_who_has_no_key_is_refused_by_every_method_but_the_open_ones(stranger: grpc.Channel) -> None:
    for method, access in GRPC.items():
        if access.least is not None:
            assert _called(stranger, method)[0] is grpc.StatusCode.UNAUTHENTICATED, method


def test_a_viewer_is_refused_by_every_method_that_changes_what_is_not_its_own(empty: Cli) -> None:
    _, key = empty.hub.accounts.api_keys.create(LOCAL, "a viewer", Role.VIEWER)
    with open_channel(empty.address, empty.hub.devices.authority.certificate.decode(), lambda: key) as channel:
        for method, access in GRPC.items():
            if access.least in (Role.OPERATOR, Role.ADMIN):
                assert _called(channel, method)[0] is grpc.StatusCode.PERMISSION_DENIED, method
        _, answer = _called(channel, "/milonga.v1.AccountService/GetCaller")
        assert pb.GetCallerResponse.FromString(answer).caller.name == "key a viewer"


def test_strangers_are_told_how_to_sign_in(empty: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milonga.client.keys.key_for", lambda *_: keys.stranger)
    said = empty("devices", "list")
    assert said.code == 4 and f"milonga login {empty.address}" in said.err.replace("\n", " ")


def test_a_person_logs_in_with_a_password_is_named_and_logs_out(new: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert new("whoami", "--json").json["caller"]["kind"] == "CALLER_KIND_LOCAL"
    _types(monkeypatch, PASSWORD)
    assert "kim is operator" in new("users", "add", "kim", "--role", "operator", "--password-stdin").out
    _types(monkeypatch, "a wrong password")
    refused = new.run(["login", new.address, "--name", "kim", "--password-stdin"])
    assert refused.code == 4 and "do not belong together" in refused.err
    _types(monkeypatch, PASSWORD)
    assert "as operator" in new.run(["login", new.address, "--name", "kim", "--password-stdin"]).out
    caller = new("whoami", "--json").json["caller"]
    assert (caller["name"], caller["kind"], caller["role"]) == ("kim", "CALLER_KIND_API_KEY", "ROLE_OPERATOR")
    assert new("tokens", "create", "--json").code == 0
    denied = new("users", "ls")
    assert denied.code == 4 and "kim is operator, and this needs admin" in denied.err.replace("\n", " ")
    assert len(new("api-keys", "ls", "--json").json["api_keys"]) == 1
    assert new.run(["logout", new.address]).code == 0
    assert new.run(["logout", new.address]).code == 4
    assert new("api-keys", "ls", "--json").json["api_keys"] == []
    entries = new("audit", "ls", "--json").json["audit_entries"]
    assert [(entry["caller"], entry["operation"].rpartition("/")[2], entry["outcome"][:15]) for entry in entries] == [
        ("kim", "DeleteApiKey", "OK"),
        ("kim", "CreateJoinToken", "OK"),
        ("kim", "SignIn", "OK"),
        ("kim", "SignIn", "UNAUTHENTICATED"),
        ("local", "CreateAccount", "OK"),
    ]
    assert all(entry["address"] == "127.0.0.1" for entry in entries)
    assert PASSWORD not in str(entries)


def test_accounts_are_changed_and_removed(new: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, role in (("ana", "admin"), ("kim", "viewer")):
        _types(monkeypatch, PASSWORD)
        assert new("users", "add", name, "--role", role, "--password-stdin").code == 0
    assert "operator now" in new("users", "set-role", "kim", "operator").out
    _types(monkeypatch, "four painted doors")
    assert new("users", "password", "kim", "--password-stdin").code == 0
    new.hub.accounts.sign_in("kim", "four painted doors", "")
    new.hub.accounts.sessions.begin("kim")
    assert "signed out of 1 browser" in new("users", "sign-out", "kim").out
    assert "ana" in new("users", "ls").out
    assert new("users", "set-role", "kim", "king").code == 2
    assert "only admin" in new("users", "remove", "ana").err
    assert new("users", "remove", "kim", "--json").code == 0
    assert [each["name"] for each in new("users", "ls", "--json").json["accounts"]] == ["ana"]


def test_a_new_key_stands_alone_on_stdout_so_that_it_can_be_written_to_a_file(new: Cli) -> None:
    said = new("api-keys", "create", "prometheus", "--scope", "telemetry:read")
    assert re.fullmatch(r"mkey_\S+\n", said.out), said.out
    assert "viewer with telemetry:read" in said.err and "authorization: Bearer KEY" in said.err


def test_a_key_of_the_environment_goes_before_all_others(new: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    made = new("api-keys", "create", "a script", "--role", "viewer", "--days", "1", "--json").json
    monkeypatch.setenv("MILONGA_API_KEY", made["secret"])
    assert new("whoami", "--json").json["caller"]["key_id"] == made["api_key"]["id"]
    assert "this needs operator" in new("tokens", "create").err.replace("\n", " ")
    assert new("devices", "list").code == 0
    monkeypatch.delenv("MILONGA_API_KEY")
    assert new("api-keys", "delete", made["api_key"]["id"]).code == 0
    monkeypatch.setenv("MILONGA_API_KEY", made["secret"])
    assert new("devices", "list").code == 4


def test_keys_are_never_sent_to_another_hub_at_the_same_address(new: Cli, empty: Cli) -> None:
    ours = new.hub.devices.authority.certificate.decode()
    other = empty.hub.devices.authority.certificate.decode()
    keys.keep(new.address, ours, "mkey_kept")
    assert keys.key_for(new.address, ours)() == "mkey_kept"
    assert keys.key_for(new.address, other)() == ""
    keys.forget(new.address)
    assert keys.key_for(new.address, ours)().startswith("mlocal_")
    # The file with the local key names the hub that it is of, whoever says where it is.
    assert new.hub.accounts.local_key.path.exists()
    new.hub.accounts.local_key.path.write_text(empty.hub.accounts.local_key.path.read_text())
    assert keys.key_for(new.address, ours)() == ""


def test_the_local_key_is_the_one_that_the_hub_has_by_now(new: Cli) -> None:
    """A hub that is started anew makes another one; a program that watches it goes on."""
    key = keys.key_for(new.address, new.hub.devices.authority.certificate.decode())
    path = new.hub.accounts.local_key.path
    of_hub = path.read_text().partition(".")[2]
    path.write_text(f"mlocal_{'x' * 43}.{of_hub}")
    assert key() == f"mlocal_{'x' * 43}"


def test_the_record_names_who_is_signed_in_whatever_they_say(new: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    new.hub.accounts.create("kim", Role.OPERATOR, PASSWORD)
    kim = Caller("kim", CallerKind.ACCOUNT, Role.OPERATOR, account="kim")
    _, key = new.hub.accounts.api_keys.create(kim, "laptop", Role.OPERATOR)
    silence = ("alerts", "silence", "--rule", "drift", "--why", "a fair", "--by", "the queen", "--json")
    assert new(*silence).json["silence"]["created_by"] == "the queen (local)"
    monkeypatch.setenv("MILONGA_API_KEY", key)
    assert new(*silence).json["silence"]["created_by"] == "kim"
