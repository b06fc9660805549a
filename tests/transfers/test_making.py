"""A delta makes exactly the wanted file, and is small where the weights are alike."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from milonga.deltas import DeltaInvalid, apply
from milonga.residuals import joined, planes, residual, restored
from milonga_hub.transfers.layout import floats, tensors
from milonga_hub.transfers.making import make
from onnx import TensorProto, helper

from tests.transfers.networks import Weights, retrained, weights, write


def _made(delta: bytes, base: Path, folder: Path) -> bytes:
    (folder / "delta").write_bytes(delta)
    out = io.BytesIO()
    apply(folder / "delta", base, out)
    return out.getvalue()


def _share(base: Path, target: Path, folder: Path) -> float:
    """Return the size of the delta against that of the target, once it was proved to make the target."""
    delta = make(base, target)
    assert _made(delta, base, folder) == target.read_bytes()
    return len(delta) / target.stat().st_size


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "base.onnx", weights())


def test_weights_that_were_trained_on_leave_little(base: Path, tmp_path: Path) -> None:
    assert _share(base, write(tmp_path / "new.onnx", retrained(weights())), tmp_path) < 0.6


def test_other_weights_leave_nearly_all(base: Path, tmp_path: Path) -> None:
    assert 0.8 < _share(base, write(tmp_path / "new.onnx", weights(seed=5)), tmp_path) < 1.0


def test_a_subnet_whose_channels_are_scaled_is_nearly_nothing(base: Path, tmp_path: Path) -> None:
    known, factors = weights(), np.linspace(0.5, 2, 16, dtype=np.float32).reshape(16, 1, 1, 1)
    # Fewer channels, a kernel out of the middle, and other names, as a subnet of less depth has.
    smaller = {"0.weight": known["a.weight"][:16, :8] * factors, "1.weight": known["b.weight"][:24, :16, 1:4, 1:4]}
    assert _share(base, write(tmp_path / "new.onnx", smaller), tmp_path) < 0.12


def test_half_precision_is_foretold_by_whole_and_back_partly(base: Path, tmp_path: Path) -> None:
    half = write(tmp_path / "half.onnx", {name: one.astype(np.float16) for name, one in weights().items()})
    assert _share(base, half, tmp_path) < 0.05
    assert _share(half, base, tmp_path) < 0.75


def test_int8_is_foretold_by_the_floats_and_its_scales(base: Path, tmp_path: Path) -> None:
    scale = np.float32(0.0017)
    held: dict[str, Any] = {}
    for name, one in weights().items():
        held[f"{name}_quantized"] = np.clip(np.rint(one / scale), -128, 127).astype(np.int8)
        held[f"{name}_scale"] = np.array([scale])
    assert _share(base, write(tmp_path / "int8.onnx", held), tmp_path) < 0.08


def test_int8_that_was_trained_on_is_foretold_across_a_change_of_scale(tmp_path: Path) -> None:
    def quantised(known: Weights, scale: float) -> dict[str, Any]:
        held: dict[str, Any] = {}
        for name, one in known.items():
            held[f"{name}_quantized"] = np.clip(np.rint(one / np.float32(scale)), -128, 127).astype(np.int8)
            held[f"{name}_scale"] = np.array([scale], dtype=np.float32)
        return held

    old = write(tmp_path / "old.onnx", quantised(weights(), 0.0017))
    new = write(tmp_path / "new.onnx", quantised(retrained(weights()), 0.0021))
    # Without the scales, 0.6 of it would be left.
    assert _share(old, new, tmp_path) < 0.25


def test_weights_are_found_in_the_file_of_another_engine(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "model.bin"
    other.write_bytes(b"\x07" * 13 + b"".join(one.tobytes() for one in weights().values()) + b"end")
    assert _share(base, other, tmp_path) < 0.02


def test_files_of_an_unknown_kind_are_compared_place_by_place(tmp_path: Path) -> None:
    old, new = tmp_path / "old.bin", tmp_path / "new.bin"
    old.write_bytes(b"".join(one.tobytes() for one in weights().values()))
    new.write_bytes(b"".join(one.tobytes() for one in retrained(weights()).values()))
    assert _share(old, new, tmp_path) < 0.6


@settings(deadline=None, max_examples=60)
@given(old=st.binary(max_size=3000), new=st.binary(max_size=3000))
def test_any_file_is_made_from_any_other(old: bytes, new: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "old").write_bytes(old)
    (folder / "new").write_bytes(new)
    assert _made(make(folder / "old", folder / "new"), folder / "old", folder) == new


_BITS = {"f4": np.uint32, "f2": np.uint16, "i1": np.uint8, "i8": np.uint64, "f8": np.uint64, "b2": np.uint16}


@given(st.data(), st.sampled_from(sorted(_BITS)))
def test_what_is_left_gives_the_values_back_whatever_they_are(data: st.DataObject, dtype: str) -> None:
    values, expected = (data.draw(arrays(_BITS[dtype], 17)) for _ in range(2))
    left = residual(values, expected, dtype)
    assert (restored(joined(planes(left)), expected, dtype) == values).all()


def test_near_floats_leave_small_numbers_across_zero(tmp_path: Path) -> None:
    tiny = np.array([1e-45, -1e-45, 0.0], dtype=np.float32).view(np.uint32)
    assert residual(tiny, np.zeros(3, dtype=np.uint32), "f4").max() <= 3


@settings(deadline=None, max_examples=150)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), end=st.integers(0, 10_000))
def test_a_damaged_delta_is_refused_or_makes_another_file(
    at: int, value: int, end: int, damaged: tuple[Path, bytes, bytes]
) -> None:
    base, delta, target = damaged
    broken = bytearray(delta[: len(delta) - end % 50])
    broken[at % len(broken)] = value
    (base.parent / "broken").write_bytes(broken)
    out = io.BytesIO()
    try:
        apply(base.parent / "broken", base, out)
    except DeltaInvalid:
        return
    # Agents compare digests; what they write is never larger than it should be.
    assert len(out.getvalue()) == len(target)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes]:
    folder = tmp_path_factory.mktemp("damaged")
    base = write(folder / "base.onnx", weights())
    target = write(folder / "new.onnx", {"a.weight": retrained(weights())["a.weight"]})
    return base, make(base, target), target.read_bytes()


@given(st.binary(max_size=400))
def test_the_layout_of_no_network_is_empty(content: bytes) -> None:
    tensors(content)


def test_floats_are_read_in_both_ways_that_onnx_writes_them(tmp_path: Path) -> None:
    values = [0.5 * number for number in range(20)]
    held = helper.make_tensor("scale", TensorProto.FLOAT, [20], values)
    assert held.float_data and not held.raw_data
    graph = helper.make_graph([], "network", [], [], [held])
    assert floats(helper.make_model(graph).SerializeToString())["scale"].tolist() == values


def test_the_layout_of_a_network_names_its_weights(base: Path) -> None:
    found = {tensor.name: tensor for tensor in tensors(base.read_bytes())}
    for name, value in weights().items():
        assert (found[name].values(base.read_bytes()) == value).all()
