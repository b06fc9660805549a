"""The dependency rule of docs/adr/0001-packaging.md, read from the imports themselves, and that every door has its rule."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.accounts.rules_access import GRPC, HTTP
from milonga_hub.transports.http import create_app
from starlette.routing import Mount

from tests.web.filled import Services

ROOT = Path(__file__).parent.parent
HUB = ROOT / "hub" / "milonga_hub"
BENCH = HUB / "cli" / "bench.py"
NOUNS = (
    "accounts",
    "alerts",
    "labelling",
    "devices",
    "datasets",
    "projects",
    "runs",
    "models",
    "builds",
    "quotas",
    "rollouts",
    "signing",
    "telemetry",
    "tracking",
    "training",
    "search",
    "transfers",
    "webhooks",
)
# What each distribution may import of ours.
ALLOWED = {
    "protos/milonga": {"milonga"},
    "compiler/milonga_compiler": {"milonga_compiler"},
    # A device compiles only where the extra `compile` is installed.
    "agent/milonga_agent": {"milonga", "milonga_agent", "milonga_compiler"},
    "hub/milonga_hub": {"milonga", "milonga_compiler", "milonga_hub"},
}
OURS = {"milonga", "milonga_agent", "milonga_compiler", "milonga_hub"}


@dataclass(frozen=True)
class Imports:
    at_once: frozenset[str]
    all: frozenset[str]


@cache
def _read(path: Path) -> Imports:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return Imports(frozenset(_named(tree.body)), frozenset(_named(ast.walk(tree))))


def _imports(path: Path) -> frozenset[str]:
    return _read(path).all


def _named(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if "_pb2" not in path.name]


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_a_distribution_imports_only_those_below_it(folder: str) -> None:
    for path in _files(ROOT / folder):
        of_ours = {name.split(".")[0] for name in _imports(path)} & OURS
        assert of_ours <= ALLOWED[folder], f"{path.relative_to(ROOT)} imports {of_ours - ALLOWED[folder]}"


@pytest.mark.parametrize("folder", ["protos/milonga", "compiler/milonga_compiler", "agent/milonga_agent"])
def test_devices_need_neither_torch_nor_ultralytics(folder: str) -> None:
    # LiteRT's converter is made of torch: it runs in an environment of its own, on the hub.
    for path in (path for path in _files(ROOT / folder) if path.parts[-2:] != ("backends", "litert.py")):
        heavy = {name.split(".")[0] for name in _imports(path)} & {"torch", "torchvision", "ultralytics"}
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy}"


def test_the_torch_library_knows_nothing_of_the_hub() -> None:
    for path in _files(HUB / "learning"):
        hub = {
            name
            for name in _imports(path)
            if name.startswith("milonga_hub.") and not name.startswith("milonga_hub.learning")
        }
        assert not hub, f"{path.relative_to(ROOT)} imports {hub}"


def test_the_hub_process_never_imports_torch() -> None:
    for path in _files(HUB):
        if "learning" in path.parts or path.name.endswith("job.py") or path == BENCH:
            continue
        heavy = {name for name in _imports(path) if name.split(".")[0] == "torch" or ".learning" in name}
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy}; only jobs may"


def test_only_the_process_that_watches_over_a_job_imports_ray() -> None:
    of_its_own = {HUB / "cluster" / f"{name}.py" for name in ("driver", "placing", "actor", "team", "member")}
    for path in set(_files(HUB)) - of_its_own:
        assert "ray" not in {name.split(".")[0] for name in _read(path).at_once}, path
        assert not {f"milonga_hub.cluster.{one.stem}" for one in of_its_own} & _imports(path), path


def test_the_hub_serves_the_agent_and_never_imports_it() -> None:
    for path in _files(HUB):
        assert "milonga_agent" not in {name.split(".")[0] for name in _imports(path)}, path


def test_benchmarks_of_the_command_line_import_the_latency_model_late_and_nothing_else_of_learning() -> None:
    """They run in the user's own process, and only there; the model needs no torch."""
    assert not {name for name in _read(BENCH).at_once if ".learning" in name}
    learning = {name for name in _imports(BENCH) if ".learning" in name}
    assert all(name.startswith("milonga_hub.learning.latency.") for name in learning)
    for path in _files(HUB / "learning" / "latency"):
        assert "torch" not in {name.split(".")[0] for name in _imports(path)}, path


@pytest.mark.parametrize("noun", NOUNS)
def test_rules_decide_and_do_nothing(noun: str) -> None:
    forbidden = ("sqlmodel", "fastapi", "grpc", "asyncio", "pathlib", "milonga_hub.db", "milonga_hub.events")
    for path in (HUB / noun).glob("rules*.py"):
        found = {name for name in _imports(path) if name.startswith(forbidden)}
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


@pytest.mark.parametrize("noun", NOUNS)
def test_services_do_not_know_their_transports(noun: str) -> None:
    for path in (HUB / noun).glob("*.py"):
        if path.stem in ("rpc", "web"):
            continue
        found = {name for name in _imports(path) if name.split(".")[0] in ("fastapi", "grpc", "starlette")}
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def _tables(noun: str) -> set[str]:
    path = HUB / noun / "models.py"
    if not path.exists():
        return set()
    classes = (node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef))
    return {node.name for node in classes if any(keyword.arg == "table" for keyword in node.keywords)}


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_asks_the_service_of_another_and_never_selects_from_its_tables(noun: str) -> None:
    """Rows may be passed around and named in types; only their own noun may query or make them."""
    foreign = {table for other in NOUNS if other != noun for table in _tables(other)}
    for path in (HUB / noun).glob("*.py"):
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "milonga_hub" and len(parts) > 2 and parts[1] in NOUNS and parts[1] != noun:
                assert parts[2] in ("service", "models", "rules", "selectors"), (
                    f"{path.relative_to(ROOT)} imports {name}"
                )
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            called = call.func.id if isinstance(call.func, ast.Name) else ""
            arguments = {argument.id for argument in call.args if isinstance(argument, ast.Name)}
            named = arguments & foreign if called in ("select", "delete", "update", "insert") else {called} & foreign
            assert not named, f"{path.relative_to(ROOT)} touches the table {named}; call its service"


def test_every_grpc_method_has_a_rule_of_who_may_call_it_and_no_rule_is_left_over() -> None:
    """A method that is not in hub/milonga_hub/accounts/rules_access.py is refused to everybody."""
    served = {
        f"/{service.full_name}/{method.name}"
        for path in (ROOT / "protos/milonga/v1").glob("*.proto")
        for service in _descriptor(path.stem).services_by_name.values()
        for method in service.methods
        # At a port of its own, which asks for a device's certificate.
        if service.name != "AgentService"
    }
    ruled = {method for method in GRPC if method.startswith("/milonga.")}
    assert ruled == served, "add it to GRPC in accounts/rules_access.py"


def _descriptor(name: str) -> Any:
    return importlib.import_module(f"milonga.v1.{name}_pb2").DESCRIPTOR


def test_every_route_and_page_has_a_rule_of_who_may_use_it_and_no_rule_is_left_over(tmp_path: Path) -> None:
    """A route that is not in hub/milonga_hub/accounts/rules_access.py is refused to everybody but people who look."""
    served = {
        f"{method} {path}"
        for methods, path in _routes(create_app(Services(tmp_path)).routes)
        for method in methods - {"HEAD"}
    }
    assert set(HTTP) == served, "add it to HTTP in accounts/rules_access.py"


def _routes(routes: Any) -> Iterator[tuple[set[str], str]]:
    for route in routes:
        # FastAPI keeps routers that were included whole, or did not, by its version.
        if hasattr(route, "effective_route_contexts"):
            yield from _routes(route.effective_route_contexts())
        elif isinstance(route, Mount):
            yield {"GET"}, f"{route.path}/{{path:path}}"
        else:
            yield set(route.methods), route.path
