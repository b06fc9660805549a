"""Kernels are tuned for a device that times them: the real search, and the agent's own process; skipped where TVM is not installed."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from milonga_compiler.backends import backend
from milonga_compiler.errors import TuningRefused
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target
from milonga_compiler.timing import Times, count_in
from milonga_compiler.tuning import Budget, Tuning
from milonga_hub.blobs import BlobStore, digest_of, digest_of_file
from milonga_hub.builds.sessions import TuningSessions

from tests.compiler.engines_here import need
from tests.signing.ready import signing

TVM = Target.parse("tvm/fp32")
_AARCH64 = 183  # e_machine (System V ABI, "ELF Header").


class Device:
    """Times kernels as an agent does, in its process, until it is taken away."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self._folder, self._python = folder, python
        blobs = BlobStore(folder / "blobs")
        self._session = TuningSessions(folder / "tuning", blobs, signing(folder / "signing")).open("digits", "pi")
        (folder / "session.json").write_bytes(blobs.read(self._session.file.digest))
        (folder / "unpacked").mkdir()
        self.gone = ""
        self.counts: list[int] = []

    def __call__(self, kernels: Path) -> Times:
        if self.gone:
            return Times(gone=self.gone)
        self.counts.append(count_in(kernels))
        began = time.monotonic()
        found = self._timed(kernels)["kernels"]
        # The first fails, as one that crashes.
        found[0] = {"error": "it crashed (SIGSEGV)"} if len(self.counts) > 1 else found[0]
        times = tuple(one.get("ms") for one in found)
        return Times(times, tuple(one.get("error", "") for one in found), "pi-1", time.monotonic() - began)

    def _timed(self, kernels: Path) -> dict[str, Any]:
        digest = digest_of_file(kernels)
        spec = {
            "id": "t",
            "session": str(self._folder / "session.json"),
            "session_digest": digest_of((self._folder / "session.json").read_bytes()),
            "kernels": str(kernels),
            "kernels_digest": digest,
            "signature": base64.b64encode(self._session.sign(digest)).decode(),
            "folder": str(self._folder / "unpacked"),
            "threads": 1,
            "memory_bytes": 0,
            "seconds_each": 0.1,
            "max_seconds_each": 60.0,
            "max_seconds": 600.0,
        }
        (self._folder / "spec.json").write_text(json.dumps(spec))
        command = [self._python, "-m", "milonga_agent.kernels", str(self._folder / "spec.json")]
        said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        answer: dict[str, Any] = json.loads(said)
        return answer


def test_a_device_times_what_is_tried_and_the_next_tuning_goes_on_where_it_was_lost(
    network: tuple[Path, Labelled], tmp_path: Path
) -> None:
    need("tvm")
    if importlib.util.find_spec("tvm_ffi") is None:
        pytest.skip(
            "the agent's interpreter has no TVM to time with; to test it, run: pip install 'milonga-agent[tvm]'"
        )
    device = Device(tmp_path)
    tuning = Tuning(tmp_path / "tuned", Budget(trials=100), timer=device)
    steps = []
    for step in backend("tvm").tune(network[0], TVM, tuning):
        steps.append(step)
        if step.turn is not None:
            device.gone = "no device of type pi was connected for 600 s"
    begun, turned, last = steps
    assert device.counts[0] == len(begun.kernels), "all are timed as they are"
    assert begun.device == "pi-1" and all(one.untuned_ms > 0 for one in begun.kernels)
    assert (turned.trials, turned.failed) == (device.counts[1], 1) and sum(one.tuned for one in turned.kernels) == 1
    assert last.ended == device.gone and last.kernels == turned.kernels
    device.gone = ""
    again = next(backend("tvm").tune(network[0], TVM, tuning))
    assert again.found == 1 and len(device.counts) == 2, "nothing is timed again"
    assert (again.kernels, again.device) == (turned.kernels, "")


def test_what_a_device_of_another_kind_is_sent_is_linked_for_it(network: tuple[Path, Labelled], tmp_path: Path) -> None:
    need("tvm")
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("there is no compiler for aarch64; run: apt-get install gcc-aarch64-linux-gnu")
    machines: list[int] = []

    def refuse(kernels: Path) -> Times:
        with zipfile.ZipFile(kernels) as packed:
            libraries = [packed.read(name) for name in packed.namelist() if name.endswith(".so")]
        machines.extend(int.from_bytes(library[18:20], "little") for library in libraries)
        return Times(gone="that is all that it was wanted for")

    there = replace(TVM, architecture="aarch64")
    tuning = Tuning(tmp_path / "tuned", Budget(trials=4), timer=refuse)
    with pytest.raises(TuningRefused, match="that is all"):
        list(backend("tvm").tune(network[0], there, tuning))
    assert set(machines) == {_AARCH64}
    with pytest.raises(TuningRefused, match="--tune-on TYPE"):
        list(backend("tvm").tune(network[0], there, replace(tuning, timer=None)))
