"""What is made from the protocol is what the protocol says now, and what the protocol says is true."""

from __future__ import annotations

import ast
import json

import pytest
from milonga.client import Retries
from milonga_hub.accounts.rules_access import GRPC

from tools.codegen.__main__ import CLIENT
from tools.codegen.describe import Kind, Method, Service, described
from tools.codegen.services import ASYNC, SYNC, Flavour, source

SERVICES = described()
METHODS = [method for service in SERVICES for method in service.methods]


@pytest.mark.parametrize(("name", "flavour"), [("services.py", SYNC), ("async_services.py", ASYNC)])
def test_the_services_are_those_of_the_protocol(name: str, flavour: Flavour) -> None:
    # Not letter by letter: versions of ruff format differently.
    committed = ast.dump(ast.parse((CLIENT / name).read_text(encoding="utf-8")))
    assert committed == ast.dump(ast.parse(source(SERVICES, flavour))), "run: make protos"


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_service_says_what_it_is_for(service: Service) -> None:
    assert service.comment.endswith(".")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_every_method_says_what_it_is_for(method: Method) -> None:
    assert method.comment.endswith(".")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_a_method_is_said_to_have_no_side_effects_where_the_hub_says_that_it_changes_nothing(method: Method) -> None:
    assert (method.repeats == "NO_SIDE_EFFECTS") == (not GRPC[method.path].changes)


def test_what_takes_a_request_id_may_be_repeated() -> None:
    for method in METHODS:
        assert not method.takes_request_id or method.repeats or method.kind is Kind.UPLOAD, method.path


def test_grpc_repeats_what_the_protocol_says_may_be_repeated() -> None:
    (config,) = json.loads(Retries().service_config())["methodConfig"]
    repeated = {f"/{each['service']}/{each['method']}" for each in config["name"]}
    assert repeated == {method.path for method in METHODS if method.repeats}
