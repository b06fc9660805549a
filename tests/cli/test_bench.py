"""milonga bench latency, on small tables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milonga_hub.cli.output import WIDTH

from tests.cli.conftest import Said
from tests.learning.latency.worlds import world

Run = Callable[[list[str]], Said]


def _table(folder: Path, **changed: Any) -> Path:
    made = world(networks=120, devices=3)
    arrays: dict[str, Any] = {
        "archs": made.features.astype(np.int8),
        "devices": np.array(["new", *made.sources]),
        "latency_ms": np.array([made.target, *made.sources.values()], dtype=np.float32),
        "macs_m": made.macs / 1e6,
        **changed,
    }
    path = folder / "table.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_each_device_is_predicted_in_turn(run: Run, tmp_path: Path) -> None:
    said = run(["bench", "latency", "--data", str(_table(tmp_path)), "--seeds", "2"])
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["new", "device0", "device1", "device2"]
    assert "mean rank correlation 0.9" in lines[5]
    assert max(map(len, lines)) <= WIDTH


def test_json_has_each_figure_of_the_devices_that_were_asked_for(run: Run, tmp_path: Path) -> None:
    data = str(_table(tmp_path, macs_m=None))
    found = run(["bench", "latency", "--data", data, "--target", "device1", "-k", "12", "--seeds", "1", "--json"]).json
    assert (found["measured"], found["seeds"]) == (12, 1)
    (device,) = found["devices"]
    assert device["device"] == "device1"
    assert device["spearman"] > 0.9
    assert 0.5 < device["coverage"] <= 1
    assert device["within"] > 0.7
    assert device["seconds"] > 0


def test_a_device_is_not_predicted_from_its_own_family(run: Run, tmp_path: Path) -> None:
    ms = np.array(np.load(_table(tmp_path))["latency_ms"])
    # The twin knows all that structure cannot tell; as family it must not be asked.
    ms[1] = ms[0] = np.random.default_rng(0).uniform(1.0, 100.0, ms.shape[1])
    data, families = _table(tmp_path, latency_ms=ms[:2], devices=np.array(["new", "twin"])), tmp_path / "families.json"
    families.write_text(json.dumps({"new": "twins", "twin": "twins"}))
    found = run(
        ["bench", "latency", "--data", str(data), "--families", str(families), "--target", "new", "--json"]
    ).json
    assert found["devices"][0]["spearman"] < 0.6


def test_networks_that_a_device_did_not_measure_are_left_out(run: Run, tmp_path: Path) -> None:
    ms = np.array(np.load(_table(tmp_path))["latency_ms"])
    ms[0, 30:], ms[1, ::2] = np.nan, np.nan
    ms[2, 5:] = np.nan
    found = run(["bench", "latency", "--data", str(_table(tmp_path, latency_ms=ms)), "--json"]).json
    assert [one["device"] for one in found["devices"]] == ["new", "device0", "device2"]
    assert all(one["spearman"] > 0.7 for one in found["devices"])


BAD: dict[str, tuple[dict[str, Any], list[str], int, str]] = {
    "an array is missing": ({"latency_ms": None}, [], 4, "features (or archs), devices and latency_ms are needed"),
    "shapes differ": ({"latency_ms": np.ones((4, 7))}, [], 4, "(devices, networks)"),
    "one name twice": ({"devices": np.array(["a", "a", "b", "c"])}, [], 4, "of different names"),
    "latency of 0": ({"latency_ms": np.zeros((4, 120))}, [], 4, "above 0"),
    "features not finite": ({"archs": np.full((120, 2), np.nan)}, [], 4, "features must be finite"),
    "macs of 0": ({"macs_m": np.zeros(120)}, [], 4, "macs_m must be"),
    "words for numbers": ({"archs": np.full((120, 2), "conv")}, [], 4, "must be numbers"),
    "pickled objects": ({"archs": np.full((120, 2), {}, dtype=object)}, [], 4, "is no .npz of plain numbers"),
    "no such device": ({}, ["--target", "tpu"], 3, "no device tpu in the table; it has: new"),
    "too few networks": ({}, ["-k", "61"], 4, "no device measured 122 networks"),
    "too few on one": ({}, ["-k", "61", "--target", "new"], 4, "new measured 120 networks"),
    "no families file": ({}, ["--families", "nowhere.json"], 3, "there is no file nowhere.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_refused_in_a_sentence(run: Run, tmp_path: Path, case: str) -> None:
    changed, flags, code, words = BAD[case]
    said = run(["bench", "latency", "--data", str(_table(tmp_path, **changed)), *flags])
    assert said.code == code
    assert words in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half an archive"])
def test_a_file_that_is_no_table_is_refused(run: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.npz"
    path.write_bytes(content)
    said = run(["bench", "latency", "--data", str(path)])
    assert said.code == 4
    assert "is no .npz" in said.err
    assert run(["bench", "latency", "--data", str(tmp_path / "none.npz")]).code == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"new": 3}', '{"tpu": "edge"}'])
def test_bad_families_are_refused(run: Run, tmp_path: Path, content: str) -> None:
    families = tmp_path / "families.json"
    families.write_text(content)
    said = run(["bench", "latency", "--data", str(_table(tmp_path)), "--families", str(families)])
    assert said.code == 4
    assert str(families) in said.err


def test_other_verbs_start_without_the_model_and_what_stores_rows() -> None:
    slow = {"scipy", "torch", "numpy", "sqlalchemy"}
    code = f"import sys, milonga_hub.cli; sys.exit(bool({slow} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
