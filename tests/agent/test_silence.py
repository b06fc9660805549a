"""Engines that tell their makers of each use stay silent on devices: what leaves one is what its owner lets leave it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

_LOOK_OUT = """
import os, sys
reached = []
sys.addaudithook(lambda event, given: reached.append((event, given)) if event.startswith("socket.") else None)
import {package}
import {module}
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1" and sys.modules["openvino_telemetry"] is None
assert not reached, reached
"""


@pytest.mark.parametrize("package", ["milonga_agent", "milonga_compiler"])
def test_an_engine_looks_for_no_network_when_it_is_loaded(package: str) -> None:
    module = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
    subprocess.run([sys.executable, "-c", _LOOK_OUT.format(package=package, module=module)], check=True)
