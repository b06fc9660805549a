"""TVM compiles for processors that this machine is not, and says what it needs for that."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest
from milonga_compiler.backends import backend
from milonga_compiler.build import State, build
from milonga_compiler.errors import BuildFailed
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target

from tests.compiler.engines_here import need

OTHER = "aarch64" if platform.machine() == "x86_64" else "x86_64"


@pytest.fixture(autouse=True)
def _tvm() -> None:
    need("tvm")


def test_a_library_for_another_processor_is_built_and_not_said_to_be_verified(
    network: tuple[Path, Labelled], tmp_path: Path
) -> None:
    if not shutil.which(f"{OTHER}-linux-gnu-gcc"):
        pytest.skip(f"there is no cross compiler; run: apt-get install gcc-{OTHER.replace('_', '-')}-linux-gnu")
    target = Target.parse("tvm/fp32", OTHER)
    built = build(network[0], target, tmp_path / "b", network[1], None, {"task": "classification"}, 0.5)
    assert built.state is State.BUILT and f"built for {OTHER}" in built.reason
    header = (tmp_path / "b" / "model.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and header[18] == {"aarch64": 183, "x86_64": 62}[OTHER]


def test_without_a_cross_compiler_it_names_the_package(
    network: tuple[Path, Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildFailed, match="apt-get install gcc-"):
        next(backend("tvm").build(network[0], Target.parse("tvm/fp32", OTHER), tmp_path, None))


def test_a_processor_that_no_build_is_for_is_refused(network: tuple[Path, Labelled], tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="builds for x86_64, aarch64, not for riscv64"):
        next(backend("tvm").build(network[0], Target.parse("tvm/fp32", "riscv64"), tmp_path, None))
