"""The pages of docs/api and their examples: made from what the protocol says now, and each one runs against a hub."""

from __future__ import annotations

import asyncio
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from milonga.client.calls import Calls
from milonga_hub.builds.rules import FREE
from milonga_hub.devices.models import Inventory
from milonga_hub.devices.service import Enrolment
from milonga_hub.install.releases import AgentReleases
from milonga_hub.runs.models import Trigger
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.profiled import Profiled

from tests.certificates import Key
from tests.cli.conftest import served
from tests.compiler.foreign import classifier
from tests.web.filled import PROJECT, Services, filled, pictures
from tools.codegen.__main__ import PAGES
from tools.codegen.describe import Service, described
from tools.codegen.pages import EXAMPLES, cells, pages

SERVICES = described()
MADE = pages(SERVICES)
DOCK = Key()


@pytest.fixture(scope="module")
def used_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A hub of its own, where the examples may delete things.

    One of its devices is not connected, and another asks to join; its builds may be made again, and two of its runs
    wait for a person.
    """
    services = filled(tmp_path_factory.mktemp("examples"))
    _, token = services.devices.create_join_token({})
    services.devices.enrol(Enrolment(token, "zero2-2", Inventory(board="zero2"), "0.1.0", True, {}, Key().request()))
    services.devices.enrol(Enrolment("", "dock-1", Inventory(board="dock"), "0.1.0", True, {}, DOCK.request()))
    network = classifier(services.folder / "network.onnx")
    for version in services.models.versions(PROJECT)[0]:
        for kind, subnet in version.subnets.items():
            order = {"onnx": str(network), "manifest": {"subnet": subnet}}
            services.builds.orders.keep(version.name, kind, order, FREE, None)
    spec = services.projects.get(PROJECT).spec
    waits = spec.model_copy(update={"retraining": spec.retraining.model_copy(update={"approval": True})})
    services.projects.apply(PROJECT, waits)
    for trigger in (Trigger.NEW_LABELS, Trigger.SCHEDULE):
        services.runs.start(PROJECT, trigger, "by itself")
    _plan_run(services)
    releases = AgentReleases(services.folder / "agent_release.json", services.blobs, services.signing)
    services.devices.offer_release(releases.current)
    with served(services) as address:
        yield address


def _plan_run(services: Services) -> None:
    """Leave in the folder of the first run what it decided and measured, as a hub does."""
    folder, spec = services.folder / "runs" / PROJECT / "1", services.projects.get(PROJECT).spec
    version = services.datasets.latest(PROJECT)
    RunPlan(spec=spec, dataset_version=version.name, classes=version.classes, types=[]).write(folder)
    (folder / "profiled.json").write_text(Profiled(history=[], costs="").model_dump_json())


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Which methods a client called."""
    paths: set[str] = set()
    for name in ("unary", "pages", "rows", "watch", "download", "upload"):
        way: Any = getattr(Calls, name)

        def noting(calls: Calls, path: str, *rest: Any, way: Any = way) -> Any:
            paths.add(path)
            return way(calls, path, *rest)

        monkeypatch.setattr(Calls, name, noting)
    return paths


def _run(path: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    finally:
        if "hub" in names:
            names["hub"].close()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.attribute)
def test_the_examples_run_and_call_every_method(
    service: Service, used_hub: str, called: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MILONGA_HUB", used_hub)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures.zip").write_bytes(pictures(seed=3))
    classifier(tmp_path / "model.onnx")
    (tmp_path / "fingerprints.txt").write_text(DOCK.fingerprint)
    _run(EXAMPLES / f"{service.attribute}.py")
    assert {method.path for method in service.methods} - called == set()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.attribute)
def test_every_method_has_an_example_of_its_own(service: Service) -> None:
    _, found = cells(service)
    titled = {name for title in found for name in re.split(r",\s*", title)}
    assert titled == {method.name for method in service.methods}


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_page_says_what_the_protocol_says_now(name: str) -> None:
    assert (PAGES / name).read_text(encoding="utf-8") == MADE[name], "run: make protos"


def test_examples_that_are_copied_in_the_order_of_a_page_know_every_name(tmp_path: Path) -> None:
    for name, page in MADE.items():
        blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        # The others are signatures.
        examples = [block for block in blocks if not re.match(r"\w+\(.*\) -> ", block)]
        (tmp_path / f"{name}.py").write_text("\n".join(examples))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_there_is_a_page_for_every_service_and_a_link_to_it() -> None:
    assert {path.name for path in PAGES.glob("*.md")} == {*MADE, "index.md", "errors.md"}
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in index for name in MADE)


def test_the_python_of_the_guide_runs(used_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILONGA_HUB", used_hub)
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        names: dict[str, Any] = {}
        exec(compile(block, "index.md", "exec"), names)
        if "main" in names:
            asyncio.run(names["main"]())


def test_the_integration_reports_what_a_fleet_did(
    used_hub: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = runpy.run_path(str(PAGES.parent / "examples" / "fleet_report.py"))["main"]
    monkeypatch.setenv("MILONGA_HUB", used_hub)
    assert report(PROJECT) == 1
    said = capsys.readouterr().out
    assert re.search(r"^\| pi5-1 \| online \| \d \| [1-9]\d* \| \d+ \|$", said, re.MULTILINE), said
    assert re.search(r"About \d+\.\d% of the answers are right", said), said
    assert "- **devices/pi5-1**: what pi5-1 sees for digits has drifted" in said
    monkeypatch.setenv("MILONGA_HUB", "nowhere")
    assert report(PROJECT) == 2
    assert "HOST:PORT" in capsys.readouterr().err
