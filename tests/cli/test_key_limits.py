"""Keys that are limited to scopes and projects, at every method and route of a hub with a project."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from fastapi.testclient import TestClient
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from milonga.client.channel import open_channel
from milonga_hub.accounts.rules_access import GRPC, HTTP
from milonga_hub.accounts.rules_projects import whose
from milonga_hub.accounts.rules_scopes import scope_of
from milonga_hub.callers import Caller, CallerKind, Role
from milonga_hub.projects.models import ProjectSpec
from milonga_hub.transports.http import create_app

from tests.cli.conftest import Cli
from tests.web.filled import PROJECT

LOCAL = Caller("local", CallerKind.LOCAL, Role.ADMIN)
VERSION = f"models/{PROJECT}/versions/1"
READING = [
    each for each, access in GRPC.items() if each.startswith("/milonga.") and access.least and not access.changes
]
Call = Callable[[str], tuple[grpc.StatusCode, Message]]


def _named(cli: Cli) -> dict[str, dict[str, str]]:
    """Return values of the fields that name things, by service."""
    hub = cli.hub
    build = hub.builds.list(VERSION, page_size=1)[0][0].name
    run = f"projects/{PROJECT}/runs/1"
    project = {"project": PROJECT}
    return {
        "ProjectService": {"name": PROJECT},
        "RunService": {"name": run, "run": run, **project},
        "ModelService": {"name": VERSION, "model": PROJECT},
        "BuildService": {"name": build, "model_version": VERSION},
        "RolloutService": {"id": hub.rollouts.list(PROJECT)[0][-1].id, "model_version": VERSION, **project},
        "DatasetService": {"name": PROJECT, "dataset": PROJECT},
        "LabellingService": {"name": hub.labelling.list(PROJECT)[0][0].name, **project},
        "TelemetryService": {"device": "pi5-1", **project},
        "AlertService": {"id": hub.alerts.list(project=PROJECT)[0][0].id, **project},
    }


@pytest.fixture(autouse=True)
def no_key_stays(cli: Cli) -> Iterator[None]:
    """End the keys that a test made: the hub is that of all tests here."""
    yield
    keys = cli.hub.accounts.api_keys
    for key in keys.page(LOCAL)[0]:
        keys.delete(LOCAL, key.id)


@contextmanager
def _calls(cli: Cli, key: str) -> Iterator[Call]:
    named = _named(cli)
    with open_channel(cli.address, cli.hub.devices.authority.certificate.decode(), lambda: key) as channel:

        def call(operation: str) -> tuple[grpc.StatusCode, Message]:
            method = _described(operation)
            request = GetMessageClass(method.input_type)()
            for name, value in named.get(method.containing_service.name, {}).items():
                if name in method.input_type.fields_by_name:
                    setattr(request, name, value)
            answers = GetMessageClass(method.output_type)
            how = channel.unary_stream if method.server_streaming else channel.unary_unary
            asked: Any = how(operation)
            try:
                answer = asked(request.SerializeToString(), timeout=60)
                if method.server_streaming:
                    first = next(answer)
                    answer.cancel()
                    answer = first
                return grpc.StatusCode.OK, answers.FromString(answer)
            except grpc.RpcError as error:
                failed: Any = error
                return failed.code(), answers()

        yield call


def _described(operation: str) -> Any:
    service, _, method = operation[1:].partition("/")
    for path in (Path(__file__).parents[2] / "protos/milonga/v1").glob("*.proto"):
        services = importlib.import_module(f"milonga.v1.{path.stem}_pb2").DESCRIPTOR.services_by_name
        if service.rpartition(".")[2] in services:
            return services[service.rpartition(".")[2]].methods_by_name[method]
    raise AssertionError(operation)


def _key(cli: Cli, **limits: Any) -> str:
    return cli.hub.accounts.api_keys.create(LOCAL, "a program", Role.ADMIN, **limits)[1]


def test_a_key_of_another_project_sees_nothing_of_this_one(cli: Cli) -> None:
    with _calls(cli, _key(cli, projects=["letters"])) as call:
        for operation in READING:
            code, answer = call(operation)
            if whose(operation) is None:
                assert code is grpc.StatusCode.PERMISSION_DENIED, operation
            elif not operation.endswith("GetCaller"):
                assert code is grpc.StatusCode.NOT_FOUND or (code is grpc.StatusCode.OK and not answer.ByteSize()), (
                    operation
                )


def test_a_key_of_another_project_changes_nothing_of_this_one(cli: Cli) -> None:
    refused = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)
    with _calls(cli, _key(cli, projects=["letters"])) as call:
        for operation, access in GRPC.items():
            if access.changes and access.least is not None and not operation.endswith("DeleteApiKey"):
                # What begins with a stream of requests is refused for its header, of which there is none here.
                expected = (*refused, grpc.StatusCode.INVALID_ARGUMENT) if "/Import" in operation else refused
                assert call(operation)[0] in expected, operation


def test_a_key_of_a_project_sees_all_that_a_key_without_limits_sees_of_it(cli: Cli) -> None:
    with _calls(cli, _key(cli, projects=[PROJECT])) as limited, _calls(cli, _key(cli)) as free:
        for operation in READING:
            if whose(operation) is not None and not operation.endswith("GetCaller"):
                code, answer = limited(operation)
                assert (code, answer) == free(operation), operation
                if "/List" in operation:
                    assert answer.ByteSize(), operation


def test_a_scope_lets_in_where_it_is_named_and_nowhere_else(cli: Cli) -> None:
    with _calls(cli, _key(cli, scopes=["runs:read", "telemetry:read"])) as call:
        for operation in READING:
            is_let_in = scope_of(operation, GRPC[operation]) in ("", "runs:read", "telemetry:read")
            assert (call(operation)[0] is not grpc.StatusCode.PERMISSION_DENIED) == is_let_in, operation
        assert call("/milonga.v1.RunService/StartRun")[0] is grpc.StatusCode.PERMISSION_DENIED


def _example(cli: Cli, path: str) -> str:
    named = _named(cli)
    parts = {
        "project": PROJECT,
        "model": PROJECT,
        "dataset": PROJECT,
        "number": "1",
        "rollout": named["RolloutService"]["id"],
        "alert": named["AlertService"]["id"],
        "build": named["BuildService"]["name"].rpartition("/")[2],
        "sample": named["LabellingService"]["name"].rpartition("/")[2],
        "device": "pi5-1",
        "device_type": "raspberry-pi-5",
    }
    for name, value in parts.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def _program(cli: Cli, key: str) -> TestClient:
    return TestClient(create_app(cli.hub), base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {key}"})


def _is_empty(body: Mapping[str, Any]) -> bool:
    return not any(body.values())


def test_over_rest_a_key_of_another_project_sees_and_changes_nothing_of_this_one(cli: Cli) -> None:
    program = _program(cli, _key(cli, projects=["letters"]))
    for operation, access in HTTP.items():
        method, path = operation.split(" ")
        if access.least is None or operation in ("GET /api/v1/me", "DELETE /api/v1/api_keys/{id}"):
            continue
        body = {"model_version": VERSION} if operation == "POST /api/v1/rollouts" else {}
        answer = program.request(method, _example(cli, path), params={"project": PROJECT}, json=body)
        if answer.status_code not in (403, 404):
            assert answer.status_code == 200 and _is_empty(answer.json()), (operation, answer.text)
        if "/api/v1/" not in path:
            assert answer.status_code == 403, operation


def test_over_rest_a_key_of_a_project_sees_what_a_key_without_limits_sees_of_it(cli: Cli) -> None:
    limited, free = _program(cli, _key(cli, projects=[PROJECT])), _program(cli, _key(cli))
    for operation, access in HTTP.items():
        method, path = operation.split(" ")
        if method == "GET" and "/api/v1/" in path and whose(operation) and not access.changes and path != "/api/v1/me":
            found = [each.get(_example(cli, path), params={"project": PROJECT}) for each in (limited, free)]
            assert found[0].status_code == found[1].status_code != 403, operation
            # A bundle's archive bears the time, and this hub's builds lack what makes an example.
            if not path.endswith(("/bundle", "/example")):
                assert found[0].content == found[1].content, operation


def test_over_rest_a_scope_lets_in_where_it_is_named(cli: Cli) -> None:
    program = _program(cli, _key(cli, scopes=["rollouts:write"]))
    assert program.get("/api/v1/rollouts").status_code == 200
    refused = program.get("/api/v1/runs")
    assert refused.status_code == 403 and "this needs runs:read" in refused.text
    assert program.get("/api/v1/events", params={"topics": "devices/"}).status_code == 403
    assert program.get("/").status_code == 403 and "without limits" in program.get("/devices").text


def test_a_key_of_a_project_gives_it_no_other_devices_or_data_and_makes_no_project(cli: Cli) -> None:
    program = _program(cli, _key(cli, projects=[PROJECT, "letters"]))
    known = json.loads(cli.hub.projects.get(PROJECT).spec.model_dump_json())
    for change in ({"selector": "site=seoul"}, {"dataset": "faces"}):
        refused = program.post(f"/api/v1/projects/{PROJECT}:apply", json={"spec": {**known, **change}, "dry_run": True})
        assert refused.status_code == 403 and "leaves it so" in refused.text
    assert program.post(f"/api/v1/projects/{PROJECT}:apply", json={"spec": known, "dry_run": True}).status_code == 200
    made = program.post("/api/v1/projects/letters:apply", json={"spec": known, "dry_run": True})
    assert made.status_code == 403 and "makes none" in made.text


def test_a_key_of_one_project_only_reads_the_data_set_that_another_learns_of_too(new: Cli) -> None:
    from tests.web.filled import pictures

    archive = new.hub.folder / "pictures.zip"
    archive.write_bytes(pictures(("0", "1")))
    new.hub.datasets.import_archive("shared", archive, append=False, strict=False)
    new.hub.projects.apply("one", ProjectSpec(dataset="shared"))
    program = _program(new, _key(new, projects=["one"]))
    send = {"files": {"archive": ("pictures.zip", pictures(("0", "1"), seed=1))}}
    assert program.post("/api/v1/datasets/shared/versions", **send).status_code == 201
    new.hub.projects.apply("two", ProjectSpec(dataset="shared"))
    assert [each["name"] for each in program.get("/api/v1/datasets").json()["datasets"]] == ["shared"]
    refused = program.post("/api/v1/datasets/shared/versions", **send)
    assert refused.status_code == 403 and "learn of shared too" in refused.text
    assert program.get("/api/v1/datasets/none").status_code == 404


def test_a_key_is_made_with_scopes_and_a_project_and_says_so(new: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    made = new(
        "api-keys", "create", "ci", "--scope", "rollouts:write", "--project", "digits", "--expires", "30d", "--json"
    ).json
    assert made["api_key"]["role"] == "ROLE_OPERATOR" and made["api_key"]["scopes"] == ["rollouts:write"]
    listed = new("api-keys", "ls").out
    assert "rollouts:write" in listed and "digits" in listed
    assert new("api-keys", "create", "ci", "--expires", "soon").code == 2
    assert "not a scope" in new("api-keys", "create", "ci", "--scope", "rollout:write").err
    monkeypatch.setenv("MILONGA_API_KEY", made["secret"])
    assert "rollouts:write" in new("whoami").out
    refused = new("runs", "list")
    assert refused.code == 4 and "needs runs:read" in refused.err.replace("\n", " ")
    assert new("rollouts", "list").code == 0
    monkeypatch.delenv("MILONGA_API_KEY")
    refusals = [each for each in new("audit", "ls", "--json").json["audit_entries"] if each.get("key_id")]
    assert not refusals, "looking is not written down"
