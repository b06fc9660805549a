"""Accounts, sessions, API keys and the audit log, on SQLite and with a clock of their own."""

from __future__ import annotations

import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from argon2 import Type, extract_parameters
from milonga_hub.accounts.attempts import Attempts
from milonga_hub.accounts.models import Account, FailedSignIns
from milonga_hub.accounts.passwords import Passwords
from milonga_hub.accounts.service import AccountService
from milonga_hub.callers import Caller, CallerKind, Role
from milonga_hub.db import Database
from milonga_hub.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    PermissionDenied,
    TooOften,
    Unauthenticated,
)
from milonga_hub.settings import Settings
from sqlmodel import func, select

from tests.accounts.quick import quick_passwords
from tests.databases import database_setting

FINGERPRINT = "sha256:" + "5e" * 32
PASSWORD = "seven wooden floors"
HERE = "192.0.2.7"
LOCAL = Caller("local", CallerKind.LOCAL, Role.ADMIN)


class World:
    def __init__(self, folder: Path) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.folder = folder
        self.settings = Settings(data_dir=folder, database_url=database_setting(folder))
        self.database = Database(self.settings.resolved_database_url)
        self.database.create_tables()
        self.accounts = self.started()

    def started(self) -> AccountService:
        return AccountService(
            self.database, self.folder, FINGERPRINT, self.settings, lambda: self.now, quick_passwords()
        )

    def pass_time(self, **of: float) -> None:
        self.now += timedelta(**of)

    def caller(self, name: str, role: Role = Role.OPERATOR) -> Caller:
        self.accounts.create(name, role, PASSWORD)
        return Caller(name, CallerKind.ACCOUNT, role, account=name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _fail(world: World, name: str = "kim", address: str = HERE) -> None:
    with pytest.raises(Unauthenticated, match="do not belong together"):
        world.accounts.sign_in(name, "wrong password", address)


def test_who_has_the_password_is_let_in_and_the_hub_keeps_only_a_hash(world: World) -> None:
    world.caller("kim")
    assert world.accounts.sign_in("kim", PASSWORD, HERE) == Caller(
        "kim", CallerKind.ACCOUNT, Role.OPERATOR, account="kim"
    )
    with world.database.session() as session:
        account = session.get(Account, "kim")
    assert account is not None and account.signed_in_at == world.now
    assert account.password_hash.startswith("$argon2id$") and PASSWORD not in account.password_hash


def test_hashing_takes_the_memory_that_makes_guessing_dear(world: World) -> None:
    passwords = Passwords()
    kept = passwords.hash(PASSWORD)
    parameters = extract_parameters(kept)
    assert parameters.type is Type.ID and parameters.memory_cost >= 64 * 1024 and parameters.time_cost >= 3
    assert passwords.matches(kept, PASSWORD) and not passwords.matches(kept, "another one")
    assert not passwords.matches(None, PASSWORD) and not passwords.matches("damaged", PASSWORD)
    assert passwords.is_outdated(quick_passwords().hash(PASSWORD))


def test_a_wrong_name_is_answered_as_a_wrong_password_is(world: World) -> None:
    world.caller("kim")
    _fail(world, "kim")
    _fail(world, "nobody")


def test_who_guesses_at_an_account_waits_longer_each_time(world: World) -> None:
    world.caller("kim")
    for _ in range(5):
        _fail(world)
    for seconds in (5, 10, 20):
        with pytest.raises(TooOften, match=f"try again in {seconds} s"):
            world.accounts.sign_in("kim", PASSWORD, "198.51.100.9")
        world.pass_time(seconds=seconds)
        _fail(world)
    world.pass_time(minutes=15)
    world.accounts.sign_in("kim", PASSWORD, HERE)
    _fail(world)
    world.accounts.sign_in("kim", PASSWORD, HERE)


def test_who_guesses_at_many_accounts_from_one_address_waits_too(world: World) -> None:
    world.caller("kim")
    for number in range(50):
        _fail(world, f"name-{number}")
    with pytest.raises(TooOften):
        world.accounts.sign_in("kim", PASSWORD, HERE)
    world.accounts.sign_in("kim", PASSWORD, "198.51.100.9")
    world.pass_time(days=1, seconds=1)
    world.accounts.sign_in("kim", PASSWORD, HERE)


def test_many_guesses_at_once_get_no_more_tries(world: World) -> None:
    def guess(number: int) -> str:
        try:
            world.accounts.sign_in("kim", f"guess number {number}", HERE)
        except (TooOften, Unauthenticated) as error:
            return type(error).__name__
        return "in"

    with ThreadPoolExecutor(8) as pool:
        assert Counter(pool.map(guess, range(16))) == {"Unauthenticated": 5, "TooOften": 11}


def test_failures_are_remembered_in_a_table_that_stays_small(world: World) -> None:
    attempts = Attempts(world.database, lambda: world.now, max_rows=10)
    for number in range(30):
        attempts.begin(f"name-{number}", f"192.0.2.{number}")
        world.pass_time(seconds=1)
    with world.database.session() as session:
        assert session.exec(select(func.count()).select_from(FailedSignIns)).one() == 10
        assert session.get(FailedSignIns, "account name-29") is not None


def test_a_session_lasts_until_it_ends_or_its_account_does(world: World) -> None:
    kim = world.caller("kim")
    first, second, third = (world.accounts.sessions.begin("kim") for _ in range(3))
    assert world.accounts.caller_of_session(first) == kim
    world.accounts.sessions.end(first)
    assert world.accounts.caller_of_session(first) is None
    assert world.accounts.caller_of_session("made up") is None
    assert world.accounts.end_sessions(kim, "kim") == 2
    assert world.accounts.caller_of_session(second) is None and world.accounts.caller_of_session(third) is None
    fourth = world.accounts.sessions.begin("kim")
    world.accounts.set_role("kim", Role.VIEWER)
    found = world.accounts.caller_of_session(fourth)
    assert found is not None and found.role is Role.VIEWER, "a new role holds at once"
    world.pass_time(days=7)
    assert world.accounts.caller_of_session(fourth) is None


def test_a_new_password_ends_all_sessions_and_needs_the_old_one(world: World) -> None:
    kim, ana = world.caller("kim"), world.caller("ana", Role.ADMIN)
    secret = world.accounts.sessions.begin("kim")
    with pytest.raises(Unauthenticated):
        world.accounts.set_password(kim, "kim", "wrong password", "four painted doors", HERE)
    with pytest.raises(PermissionDenied):
        world.accounts.set_password(kim, "ana", PASSWORD, "four painted doors", HERE)
    with pytest.raises(InvalidInput, match="12 characters"):
        world.accounts.set_password(kim, "kim", PASSWORD, "short", HERE)
    assert world.accounts.caller_of_session(secret) == kim
    world.accounts.set_password(kim, "kim", PASSWORD, "four painted doors", HERE)
    assert world.accounts.caller_of_session(secret) is None
    world.accounts.set_password(ana, "kim", "", "two open windows", HERE)
    world.accounts.sign_in("kim", "two open windows", HERE)
    with pytest.raises(Unauthenticated):
        world.accounts.set_password(ana, "ana", "", "two open windows", HERE)


def test_one_admin_always_stays(world: World) -> None:
    world.caller("ana", Role.ADMIN)
    world.caller("kim")
    for change in (lambda: world.accounts.delete("ana"), lambda: world.accounts.set_role("ana", Role.OPERATOR)):
        with pytest.raises(FailedPrecondition, match="only admin"):
            change()
    world.accounts.set_role("kim", Role.ADMIN)
    world.accounts.delete("ana")
    assert [account.name for account in world.accounts.list()[0]] == ["kim"]
    with pytest.raises(NotFound, match="milonga users ls"):
        world.accounts.delete("ana")
    with pytest.raises(AlreadyExists):
        world.caller("kim")


def test_the_first_account_is_made_once_with_the_code_of_this_start(world: World) -> None:
    path, code = world.accounts.set_up_path.split("=")
    assert path == "/setup?code"
    with pytest.raises(PermissionDenied):
        world.accounts.set_up("guess", "ana", PASSWORD)
    assert world.started().set_up_path != world.accounts.set_up_path
    with pytest.raises(InvalidInput):
        world.accounts.set_up(code, "ana", "short")
    assert world.accounts.set_up(code, "ana", PASSWORD).role is Role.ADMIN
    assert world.accounts.set_up_path == ""
    with pytest.raises(PermissionDenied, match="milonga users add"):
        world.accounts.set_up(code, "eve", PASSWORD)


def test_a_key_may_what_it_was_made_for_and_never_more_than_its_account(world: World) -> None:
    kim = world.caller("kim")
    key, secret = world.accounts.api_keys.create(kim, "laptop", Role.OPERATOR)
    assert world.accounts.caller_of_key(secret) == Caller("kim", CallerKind.API_KEY, Role.OPERATOR, key.id, "kim")
    _, viewing = world.accounts.api_keys.create(kim, "prometheus", Role.VIEWER)
    assert world.accounts.caller_of_key(viewing).role is Role.VIEWER
    with pytest.raises(PermissionDenied, match="operator or less"):
        world.accounts.api_keys.create(kim, "more", Role.ADMIN)
    world.accounts.set_role("kim", Role.VIEWER)
    assert world.accounts.caller_of_key(secret).role is Role.VIEWER
    world.accounts.delete("kim")
    for each in (secret, viewing, "mkey_made-up", "made up", ""):
        with pytest.raises(Unauthenticated, match="milonga login"):
            world.accounts.caller_of_key(each)


def test_a_key_ends_and_so_does_what_was_made_with_it(world: World) -> None:
    kim = world.caller("kim")
    _, secret = world.accounts.api_keys.create(kim, "a day", Role.OPERATOR, 24 * 3600)
    made, _ = world.accounts.api_keys.create(world.accounts.caller_of_key(secret), "longer", Role.VIEWER)
    assert made.expires_at == world.now + timedelta(days=1)
    world.pass_time(days=1)
    with pytest.raises(Unauthenticated):
        world.accounts.caller_of_key(secret)
    assert world.accounts.api_keys.page(LOCAL) == ([], "")
    for label, seconds in (("", 0), ("x\n", 0), ("x" * 101, 0), ("x", -1), ("x", 10**9)):
        with pytest.raises(InvalidInput):
            world.accounts.api_keys.create(kim, label, Role.VIEWER, seconds)


def test_everybody_sees_and_ends_their_own_keys_and_admins_all(world: World) -> None:
    kim, ben = world.caller("kim"), world.caller("ben")
    key, secret = world.accounts.api_keys.create(kim, "laptop", Role.VIEWER)
    assert world.accounts.api_keys.page(ben) == ([], "")
    with pytest.raises(NotFound):
        world.accounts.api_keys.delete(ben, key.id)
    world.accounts.caller_of_key(secret)
    first_use = world.now
    world.pass_time(seconds=59)
    world.accounts.caller_of_key(secret)
    assert [each.used_at for each in world.accounts.api_keys.page(LOCAL)[0]] == [first_use]
    world.pass_time(seconds=1)
    world.accounts.caller_of_key(secret)
    assert [each.used_at for each in world.accounts.api_keys.page(kim)[0]] == [world.now]
    world.accounts.api_keys.delete(LOCAL, key.id)
    with pytest.raises(Unauthenticated):
        world.accounts.caller_of_key(secret)


def test_a_key_of_the_hubs_machine_sees_and_ends_only_itself(world: World) -> None:
    one, secret = world.accounts.api_keys.create(LOCAL, "prometheus", Role.VIEWER)
    other, _ = world.accounts.api_keys.create(LOCAL, "backup", Role.VIEWER)
    caller = world.accounts.caller_of_key(secret)
    assert [each.id for each in world.accounts.api_keys.page(caller)[0]] == [one.id]
    with pytest.raises(NotFound):
        world.accounts.api_keys.delete(caller, other.id)
    world.accounts.api_keys.delete(caller, one.id)


def test_the_local_key_is_for_who_may_read_the_folder_and_new_at_each_start(world: World) -> None:
    file = world.folder / "local.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret, _, fingerprint = file.read_text().strip().partition(".")
    assert fingerprint == FINGERPRINT.removeprefix("sha256:")
    assert world.accounts.caller_of_key(secret) == LOCAL
    again = world.started()
    with pytest.raises(Unauthenticated):
        again.caller_of_key(secret)
    assert again.caller_of_key(file.read_text().partition(".")[0]) == LOCAL


def test_the_audit_log_shows_the_newest_first_and_forgets_what_is_old(world: World) -> None:
    world.accounts.audit.add(LOCAL, "old", "", "OK", HERE)
    world.pass_time(days=365, seconds=1)
    world.accounts.audit.add("eve", "x" * 1000, "", "UNAUTHENTICATED", HERE)
    world.accounts.audit.add(LOCAL, "new", "devices/pi-1", "OK", HERE)
    entries, token = world.accounts.audit.page(page_size=2)
    assert [(entry.caller, entry.kind) for entry in entries] == [("local", CallerKind.LOCAL), ("eve", None)]
    assert len(entries[1].operation) == 300 and token
    assert [entry.operation for entry in world.accounts.audit.page("local")[0]] == ["new", "old"]
    assert not world.accounts.audit.tidy()
    assert [entry.operation for entry in world.accounts.audit.page("local")[0]] == ["new"]
