"""Builds a network for one engine, precision and device, and proves it right."""

import os
import sys

__version__ = "0.1.0"

# Engines tell their makers of each use unless they are told not to: ONNX Runtime Microsoft (seen in 1.32), OpenVINO and nncf
# Google Analytics, from their import on. Both stay silent here; a variable that is set already is the owner's own wish.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
