"""Quotas: what is counted, where it stops, and what those who are stopped read."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from milonga_hub.db import utc_now
from milonga_hub.devices.models import Inventory
from milonga_hub.devices.values import Enrolment
from milonga_hub.errors import InvalidInput, NotFound, QuotaExceeded
from milonga_hub.labelling.models import QueuedSample, SampleReason
from milonga_hub.projects.models import ProjectSpec
from milonga_hub.quotas import rules
from milonga_hub.quotas.models import QUOTAS_FILE, ProjectQuota, ProjectUsage, QuotaSpec, QuotasSpec
from milonga_hub.quotas.service import QuotaService
from milonga_hub.runs.models import Trigger

from tests.certificates import Key
from tests.web.filled import Services, pictures
from tests.web.people import signed_in

MB = 10**6
USAGE = ProjectUsage(
    project="digits",
    dataset_bytes=60 * MB,
    sample_bytes=30 * MB,
    build_bytes=9 * MB,
    device_count=3,
    open_run_count=1,
    day_run_count=4,
)
FREE = "kind: Quotas\nname: hub\nspec: {}\n"


def _with(**quota: int) -> ProjectUsage:
    return USAGE.model_copy(update={"quota": ProjectQuota(**quota)})


def test_a_project_that_is_named_has_its_own_quota_and_others_the_default() -> None:
    spec = QuotasSpec(default=QuotaSpec(devices=5, storage_gigabytes=0.5), projects={"digits": QuotaSpec(devices=9)})
    assert rules.quota_of(spec, "digits") == ProjectQuota(devices=9)
    assert rules.quota_of(spec, "other") == ProjectQuota(devices=5, storage_bytes=500 * MB)


def test_what_fits_is_let_in_and_what_does_not_is_told_with_all_figures() -> None:
    assert rules.no_room(_with(), 10**15) == ""
    assert rules.no_room(_with(storage_bytes=100 * MB), MB) == ""
    assert rules.no_room(_with(storage_bytes=100 * MB), 2 * MB) == (
        "digits uses 99.0 MB (data set 60.0 MB, pictures of devices 30.0 MB, builds 9.0 MB) of the 100.0 MB that it may, and this would"
        " add 2.0 MB; discard pictures that wait (milonga samples discard digits), or ask for a larger quota (docs/quotas.md)"
    )


def test_one_device_less_than_the_quota_leaves_room_for_one() -> None:
    assert rules.no_device(_with()) == rules.no_device(_with(devices=4)) == ""
    assert "has 3 of the 3 devices that it may" in rules.no_device(_with(devices=3))


@pytest.mark.parametrize(
    ("quota", "told"),
    [
        ({}, ""),
        ({"runs_at_a_time": 2, "runs_per_day": 5, "devices": 3, "storage_bytes": 99 * MB}, ""),
        ({"runs_at_a_time": 1}, "has 1 of the 1 runs that it may have at a time"),
        ({"runs_per_day": 4}, "started 4 runs in 24 hours, and may start 4"),
        ({"devices": 2}, "is for 3 devices, and may be for 2"),
        ({"storage_bytes": 98 * MB}, "uses 99.0 MB"),
    ],
)
def test_a_run_starts_only_within_all_quotas(quota: dict[str, int], told: str) -> None:
    said = rules.no_run(_with(**quota))
    assert told in said and bool(said) == bool(told)


class Limited:
    """A hub whose quotas a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "hub").mkdir()
        self.hub = Services(folder / "hub")
        self.path = folder / "quotas.yaml"
        self.path.write_text(FREE)
        hub = self.hub
        hub.quotas = QuotaService(self.path, hub.projects, hub.datasets, hub.samples, hub.builds, hub.devices, hub.runs)
        hub.quotas.stand_at_doors()
        self.send(seed=0)
        hub.projects.apply("digits", ProjectSpec(dataset="digits", selector="site=busan"))

    def limit(self, text: str) -> None:
        self.path.write_text(f"kind: Quotas\nname: hub\nspec:\n  projects: {{digits: {{{text}}}}}\n")

    def send(self, seed: int) -> None:
        archive = self.folder / f"{seed}.zip"
        archive.write_bytes(pictures(("0", "1"), each=6, seed=seed))
        self.hub.datasets.import_archive("digits", archive, append=True, strict=False)

    def join(self, name: str, site: str = "busan") -> None:
        token = self.hub.devices.create_join_token({"site": site})[1]
        inventory = Inventory(board="Board 1", machine_id=name)
        self.hub.devices.enrol(Enrolment(token, name, inventory, "1.0", False, {}, Key().request()))


@pytest.fixture
def limited(tmp_path: Path) -> Limited:
    return Limited(tmp_path)


def test_pictures_of_all_versions_are_counted_once(limited: Limited) -> None:
    before = limited.hub.quotas.usage("digits").dataset_bytes
    limited.send(seed=0)
    assert limited.hub.quotas.usage("digits").dataset_bytes == before > 0
    limited.send(seed=1)
    kept = limited.hub.quotas.usage("digits").dataset_bytes
    names = {
        one.digest
        for version in (1, 2)
        for one in limited.hub.datasets.samples(f"datasets/digits/versions/{version}")[0]
    }
    assert kept == sum(limited.hub.blobs.size(name) for name in names) > before


def test_an_import_that_does_not_fit_makes_no_version(limited: Limited) -> None:
    used = limited.hub.quotas.usage("digits").storage_bytes
    limited.limit(f"storage_gigabytes: {(used + 100) / 1e9}")
    limited.hub.datasets.check_room("digits")
    with pytest.raises(QuotaExceeded, match=r"digits uses .* and this would add"):
        limited.send(seed=1)
    assert limited.hub.datasets.latest("digits").number == 1
    limited.limit(f"storage_gigabytes: {used / 1e9}")
    with pytest.raises(QuotaExceeded):
        limited.hub.datasets.check_room("digits")
    # What is there already adds nothing, and other data sets are nobody's quota.
    limited.send(seed=0)
    limited.hub.datasets.check_room("other")


def test_pictures_of_devices_count_and_wait_where_there_is_no_room(limited: Limited) -> None:
    hub, now = limited.hub, utc_now()
    before = hub.quotas.usage("digits")
    with hub.database.session() as session:
        for number, kept in enumerate((True, True, False)):
            session.add(
                QueuedSample(
                    name=f"projects/digits/samples/{number}", project="digits", digest=f"sha256:{number:064}", device="pi",
                    device_type="pi5", model_version="", reason=SampleReason.RANDOM, taken_at=now, received_at=now,
                    size_bytes=1000, arrival=str(number), kept=kept,
                )
            )  # fmt: skip
    usage = hub.quotas.usage("digits")
    assert usage.sample_bytes == 2000 and usage.storage_bytes == before.storage_bytes + 2000
    limited.limit(f"storage_gigabytes: {(usage.storage_bytes + 500) / 1e9}")
    hub.samples.may_grow("digits", 500)
    with pytest.raises(QuotaExceeded, match=r"pictures of devices 2\.0 kB"):
        hub.samples.may_grow("digits", 501)
    # The next picture will be about as large as those that wait.
    stopped = hub.samples.what_stops("digits")
    assert "this would add 1.0 kB" in stopped and "milonga samples discard digits" in stopped
    limited.limit(f"storage_gigabytes: {(usage.storage_bytes + 1000) / 1e9}")
    assert hub.samples.what_stops("digits") == ""


def test_a_device_too_many_does_not_join_and_others_do(limited: Limited) -> None:
    limited.limit("devices: 1")
    limited.join("first")
    with pytest.raises(QuotaExceeded, match="digits has 1 of the 1 devices"):
        limited.join("second")
    limited.join("elsewhere", site="seoul")
    assert [device.name for device in limited.hub.devices.list()[0]] == ["elsewhere", "first"]
    # A device that comes back is no new one, and one that was revoked leaves its place.
    limited.hub.devices.revoke("first")
    limited.join("second")
    assert limited.hub.quotas.usage("digits").device_count == 1


def test_a_run_too_many_does_not_start_and_a_repeated_request_gets_its_run(limited: Limited) -> None:
    limited.limit("runs_at_a_time: 1")
    first = limited.hub.runs.start("digits", Trigger.MANUAL, "", request_id="one")
    with pytest.raises(QuotaExceeded, match="has 1 of the 1 runs"):
        limited.hub.runs.start("digits", Trigger.MANUAL, "")
    assert limited.hub.runs.start("digits", Trigger.MANUAL, "", request_id="one").name == first.name
    limited.hub.runs.cancel(first.name)
    limited.limit("runs_at_a_time: 1, runs_per_day: 1")
    with pytest.raises(QuotaExceeded, match="started 1 runs in 24 hours"):
        limited.hub.runs.start("digits", Trigger.MANUAL, "")
    tomorrow = QuotaService(
        limited.path, limited.hub.projects, limited.hub.datasets, limited.hub.samples, limited.hub.builds,
        limited.hub.devices, limited.hub.runs, clock=lambda: utc_now() + timedelta(days=2),
    )  # fmt: skip
    tomorrow.check_run("digits")


def test_a_file_that_cannot_be_read_lets_nothing_through(limited: Limited) -> None:
    limited.limit("devises: 1")
    with pytest.raises(InvalidInput, match=r"quotas.yaml:4.*devises"):
        limited.join("first")
    assert "quotas.yaml:4" in limited.hub.samples.what_stops("digits")
    limited.path.unlink()
    with pytest.raises(InvalidInput, match=r"cannot read .*quotas.yaml"):
        limited.hub.runs.start("digits", Trigger.MANUAL, "")


def test_without_a_file_nothing_is_limited(tmp_path: Path) -> None:
    hub = Services(tmp_path)
    hub.quotas.stand_at_doors()
    hub.datasets.check_room("digits")
    hub.samples.may_grow("digits", 10**15)
    assert hub.quotas.limited() == [] and hub.quotas.usages() == []
    with pytest.raises(NotFound):
        hub.quotas.usage("nobody")


def test_pages_rest_and_metrics_show_what_is_used_of_what(limited: Limited) -> None:
    limited.limit("devices: 1, runs_per_day: 5")
    limited.join("first")
    with signed_in(limited.hub) as client:
        page = client.get("/settings/usage").text
        assert ">digits</a>" in page and "full" in page and "of 5" in page
        told = client.get("/api/v1/projects/digits/usage").json()
        assert (told["device_count"], told["quota"]["devices"], told["quota"]["storage_bytes"]) == (1, 1, None)
        metrics = client.get("/metrics").text
        assert 'milonga_project_used{project="digits",what="devices"} 1.0' in metrics
        assert 'milonga_project_quota{project="digits",what="runs_per_day"} 5.0' in metrics


def test_who_is_stopped_by_rest_reads_429(limited: Limited) -> None:
    limited.limit("runs_at_a_time: 1")
    limited.hub.runs.start("digits", Trigger.MANUAL, "")
    with signed_in(limited.hub) as client:
        refused = client.post("/api/v1/projects/digits/runs", json={})
        assert (refused.status_code, refused.json()["error"]["reason"]) == (429, "QUOTA_EXCEEDED")


def test_the_example_is_read() -> None:
    name, spec = QUOTAS_FILE.load(Path(__file__).parents[2] / "fleet_configs" / "quotas" / "hub.yaml")
    assert name == "hub" and spec.projects["digits"] == QuotaSpec(storage_gigabytes=5, devices=20)
