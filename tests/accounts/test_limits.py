"""What API keys can be limited to: that every operation has its scope and its project, and what a key may give away."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.accounts.rules_access import GRPC, HTTP, Access
from milonga_hub.accounts.rules_projects import GRPC as WHOSE
from milonga_hub.accounts.rules_projects import Kind, project_of_name, whose
from milonga_hub.accounts.rules_scopes import AREAS, SCOPES, allows, check_scopes, least_role, scope_of
from milonga_hub.callers import Caller, CallerKind, Role
from milonga_hub.errors import InvalidInput, PermissionDenied

from tests.accounts.test_service import World

# No project owns these: keys of projects are refused.
OF_NO_PROJECT = {
    "AccountService",
    "DeviceService",
    "HubService",
    "AlertService/ListSilences CreateSilence EndSilence ListAlertRules ApplyAlertRule DeleteAlertRule ListAlertChannels"
    " ApplyAlertChannel DeleteAlertChannel TestAlertChannel",
    "WebhookService",
    # Of devices, whatever project they serve.
    "RolloutService/UpgradeAgents",
    # By device, whatever project the device serves.
    "TelemetryService/WatchTelemetry GetRefusedTelemetry",
}
OURS = {operation: access for operation, access in GRPC.items() if operation.startswith("/milonga.")}
REST = {operation: access for operation, access in HTTP.items() if " /api/v1/" in operation}
LOCAL = Caller("local", CallerKind.LOCAL, Role.ADMIN)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("operation", [*OURS, *(each for each in REST if each != "GET /api/v1/events")])
def test_every_method_and_route_has_a_scope(operation: str) -> None:
    """Add a new service to _SERVICES, a new kind of thing in paths to _COLLECTIONS, of accounts/rules_scopes.py."""
    access = {**OURS, **REST}[operation]
    found = scope_of(operation, access)
    assert found in ("", *SCOPES)
    if found:
        assert found.endswith("write" if access.changes else "read")


def test_no_scope_opens_pages_or_the_stream_of_all_events() -> None:
    for operation, access in HTTP.items():
        if access.least is not None and operation not in REST and operation != "GET /metrics":
            assert scope_of(operation, access) is None, operation
    assert scope_of("GET /api/v1/events", HTTP["GET /api/v1/events"]) is None
    assert scope_of("GET ?", Access(Role.VIEWER)) is None


def test_the_areas_are_those_of_the_protocol() -> None:
    asked = {scope_of(operation, access) for operation, access in OURS.items()} - {""}
    assert {scope.partition(":")[0] for scope in asked if scope} == set(AREAS)


def test_a_route_has_the_scope_of_what_it_is_about() -> None:
    for operation, scope in (
        ("POST /api/v1/projects/{project}/runs", "runs:write"),
        ("GET /api/v1/projects/{project}", "projects:read"),
        ("POST /api/v1/projects/{project}:apply", "projects:write"),
        ("GET /api/v1/models/{model}/versions/{number}/builds/{build}/log", "models:read"),
        ("POST /api/v1/projects/{project}/labelling:add", "labelling:write"),
        ("GET /api/v1/devices/{device}/log", "devices:write"),
        ("GET /metrics", "telemetry:read"),
    ):
        assert scope_of(operation, HTTP[operation]) == scope


@pytest.mark.parametrize("operation", [each for each, access in OURS.items() if access.least is not None])
def test_every_method_says_whose_what_it_is_about_is(operation: str) -> None:
    """Add a new method to GRPC of accounts/rules_projects.py, or above to those that belong to no project."""
    service, _, method = operation.rpartition(".")[2].partition("/")
    left_out = any(
        named.partition("/")[0] == service
        and (not named.partition("/")[2] or method in named.partition("/")[2].split())
        for named in OF_NO_PROJECT
    )
    assert (whose(operation) is None) == left_out or operation.endswith(("/GetCaller", "/DeleteApiKey"))


def test_the_fields_that_say_whose_are_in_the_requests() -> None:
    for operation, found in WHOSE.items():
        assert operation in GRPC, operation
        if found.field:
            assert found.field in _request_of(operation).fields_by_name, operation


def test_every_route_whose_path_names_something_of_a_project_is_looked_at_by_it() -> None:
    for operation in REST:
        named = {part for part in ("{project}", "{model}", "{rollout}", "{alert}", "{dataset}") if part in operation}
        found = whose(operation)
        assert (found is not None and found.field in "".join(named)) if named else True, operation
        if found is not None and found.kind is Kind.DATASET_CHANGED:
            assert HTTP[operation].changes


def _request_of(operation: str) -> Any:
    service, _, method = operation[1:].partition("/")
    for path in (Path(__file__).parents[2] / "protos/milonga/v1").glob("*.proto"):
        services = importlib.import_module(f"milonga.v1.{path.stem}_pb2").DESCRIPTOR.services_by_name
        if service.rpartition(".")[2] in services:
            return services[service.rpartition(".")[2]].methods_by_name[method].input_type
    raise AssertionError(operation)


def test_who_may_write_may_read_and_nothing_else() -> None:
    assert allows(["rollouts:write"], "rollouts:read") and allows(["runs:read"], "runs:read")
    assert not allows(["rollouts:write"], "runs:read") and not allows(["rollouts:read"], "rollouts:write")


def test_names_of_resources_tell_their_project() -> None:
    assert project_of_name("projects/digits/runs/1") == project_of_name("models/digits/versions/1") == "digits"
    assert project_of_name("digits") == project_of_name("rollouts/x") == project_of_name("projects/digits/") == ""


def test_a_scope_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"accounts, alerts, .*telemetry"):
        check_scopes(["rollout:write"])
    assert check_scopes(["runs:read", "alerts:read", "runs:read"]) == ("alerts:read", "runs:read")


def test_the_role_of_a_key_is_the_least_that_its_scopes_need() -> None:
    assert least_role(["runs:read", "telemetry:read"]) is Role.VIEWER
    assert least_role(["runs:read", "rollouts:write"]) is Role.OPERATOR
    assert least_role(["accounts:write"]) is Role.VIEWER, "one's own keys and password; others need the role admin"


def test_a_key_keeps_its_limits_and_its_caller_has_them(world: World) -> None:
    key, secret = world.accounts.api_keys.create(LOCAL, "ci", scopes=["rollouts:write"], projects=["digits"])
    assert (key.role, key.scopes, key.projects) == (Role.OPERATOR, ["rollouts:write"], ["digits"])
    caller = world.accounts.caller_of_key(secret)
    assert (caller.scopes, caller.projects, caller.is_limited) == (("rollouts:write",), ("digits",), True)
    _, old = world.accounts.api_keys.create(LOCAL, "old", Role.VIEWER)
    assert not world.accounts.caller_of_key(old).is_limited


def test_a_key_without_scopes_needs_a_role_and_one_with_never_more_than_its_makers(world: World) -> None:
    with pytest.raises(InvalidInput, match="role must be given"):
        world.accounts.api_keys.create(LOCAL, "ci")
    with pytest.raises(PermissionDenied, match="your role is viewer"):
        world.accounts.api_keys.create(world.caller("kim", Role.VIEWER), "ci", scopes=["rollouts:write"])
    with pytest.raises(InvalidInput, match="not the name of a project"):
        world.accounts.api_keys.create(LOCAL, "ci", Role.VIEWER, projects=["projects/digits"])


def test_a_key_gives_away_no_more_than_it_has_itself(world: World) -> None:
    keys = world.accounts.api_keys
    _, secret = keys.create(LOCAL, "ci", scopes=["accounts:write", "runs:write"])
    maker = world.accounts.caller_of_key(secret)
    made, _ = keys.create(maker, "narrower", scopes=["runs:read"])
    assert made.scopes == ["runs:read"]
    same, _ = keys.create(maker, "the same", Role.VIEWER)
    assert same.scopes == ["accounts:write", "runs:write"]
    with pytest.raises(PermissionDenied, match="none with rollouts:read"):
        keys.create(maker, "wider", scopes=["rollouts:read"])
    _, secret = keys.create(LOCAL, "of a project", Role.OPERATOR, projects=["digits"])
    with pytest.raises(PermissionDenied, match="none with letters"):
        keys.create(world.accounts.caller_of_key(secret), "wider", Role.VIEWER, projects=["letters"])


def test_a_key_with_limits_ends_itself_and_no_other(world: World) -> None:
    kim = world.caller("kim", Role.ADMIN)
    other, _ = world.accounts.api_keys.create(kim, "laptop", Role.ADMIN)
    key, secret = world.accounts.api_keys.create(kim, "ci", Role.ADMIN, scopes=["runs:write"])
    limited = world.accounts.caller_of_key(secret)
    with pytest.raises(Exception, match="no API key"):
        world.accounts.api_keys.delete(limited, other.id)
    world.accounts.api_keys.delete(limited, key.id)
    assert [each.id for each in world.accounts.api_keys.page(kim)[0]] == [other.id]
