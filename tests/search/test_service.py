"""What was measured once, in any run, is known to every later search of the same space."""

from __future__ import annotations

from pathlib import Path

from milonga_hub.db import Database
from milonga_hub.devices.models import Measurement
from milonga_hub.devices.service import DeviceService
from milonga_hub.events import EventBus
from milonga_hub.search.service import SearchService
from milonga_hub.settings import Settings

from tests.databases import database_url


def test_measurements_of_all_runs_come_back_by_type_with_the_subnets_choices(tmp_path: Path) -> None:
    database = Database(database_url(tmp_path / "hub.db"))
    database.create_tables()
    search = SearchService(database, DeviceService(database, EventBus(), Settings(data_dir=tmp_path)))
    search.remember("mbv3", 32, [{"subnet": "a", "encoding": [0, 1]}, {"subnet": "b", "encoding": [1, 1]}])
    search.remember("mbv3", 32, [{"subnet": "a", "encoding": [0, 1]}])
    search.remember("mbv3", 64, [{"subnet": "c", "encoding": [0, 1]}])

    def row(
        number: int,
        device_type: str,
        subnet: str,
        ms: float | None,
        precision: str = "fp32",
        engine: str = "onnxruntime",
        purpose: str = "profile",
    ) -> Measurement:
        return Measurement(
            id=f"m{number}", device="d", device_type=device_type, subnet=subnet, engine=engine,
            precision=precision, median_ms=ms, purpose=purpose, peak_memory_bytes=1000 * number,
        )  # fmt: skip

    with database.session() as session:
        session.add_all(
            [
                row(1, "pi5", "a", 2.0), row(2, "pi5", "a", 4.0), row(3, "pi5", "b", None), row(4, "orin", "b", 1.0),
                row(5, "pi5", "a", 1.0, "int8"), row(6, "pi5", "c", 9.0), row(7, "pi5", "unknown", 9.0),
                row(8, "pi5", "a", 2.5, engine="openvino", purpose="verify"), row(9, "pi5", "a", 9.0, purpose="build"),
            ]
        )  # fmt: skip
    assert search.measured("mbv3", 32) == {
        ("pi5", "onnxruntime"): [
            {"subnet": "a", "encoding": [0, 1], "precision": "fp32", "median_ms": 3.0, "peak_memory_bytes": 2000},
            {"subnet": "a", "encoding": [0, 1], "precision": "int8", "median_ms": 1.0, "peak_memory_bytes": 5000},
        ],
        ("pi5", "openvino"): [
            {"subnet": "a", "encoding": [0, 1], "precision": "fp32", "median_ms": 2.5, "peak_memory_bytes": 8000}
        ],
        ("orin", "onnxruntime"): [
            {"subnet": "b", "encoding": [1, 1], "precision": "fp32", "median_ms": 1.0, "peak_memory_bytes": 4000}
        ],
    }
