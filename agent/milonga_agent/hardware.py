"""Read what hardware is there, from the device tree and from USB and PCI Express."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from milonga.v1 import devices_pb2

# (vendor, product) -> (kind, model). The Edge TPU on USB has one pair until its firmware is loaded, then another
# (coral.ai/docs/accelerator/get-started); on PCI Express it is Global Unichip's.
_ACCELERATORS = {
    ("1a6e", "089a"): ("tpu", "coral-edge-tpu"),
    ("18d1", "9302"): ("tpu", "coral-edge-tpu"),
    ("1ac1", "089a"): ("tpu", "coral-edge-tpu"),
}
_USB, _PCI = "sys/bus/usb/devices", "sys/bus/pci/devices"


def accelerators(root: Path) -> list[devices_pb2.Accelerator]:
    """Return the accelerators that are known, each as often as it is there."""
    found = [
        _ACCELERATORS[pair]
        for pair in [*_pairs(root / _USB, "idVendor", "idProduct"), *_pci(root)]
        if pair in _ACCELERATORS
    ]
    if name := gpu(root):
        found.append(("gpu", name))
    return [devices_pb2.Accelerator(kind=kind, model=model) for kind, model in sorted(found)]


def gpu(root: Path) -> str:
    """Return the NVIDIA GPU's name, as its driver or the device tree has it; empty where there is none."""
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for key, _, value in (line.partition(":") for line in _text(path).splitlines()):
            if key.strip() == "Model":
                return value.strip()
    # On a Jetson the GPU is part of the system on chip: "nvidia,tegra234".
    return next((name for name in compatible(root) if name.startswith("nvidia,tegra")), "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def compatible(root: Path) -> list[str]:
    """Return the device tree's "compatible": from the board to its system on chip. Empty where there is no tree."""
    for place in ("proc/device-tree", "sys/firmware/devicetree/base"):
        try:
            text = (root / place / "compatible").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        return [name for name in text.strip("\n").split("\0") if name]
    return []


def _pci(root: Path) -> Iterator[tuple[str, str]]:
    for vendor, product in _pairs(root / _PCI, "vendor", "device"):
        yield vendor[2:], product[2:]  # Written as 0x1ac1.


def _pairs(folder: Path, vendor: str, product: str) -> Iterator[tuple[str, str]]:
    for device in sorted(folder.glob("*")):
        try:
            yield (
                (device / vendor).read_text(encoding="ascii").strip(),
                (device / product).read_text(encoding="ascii").strip(),
            )
        except (OSError, UnicodeDecodeError):
            continue  # A USB interface has neither; a device may be pulled out at any moment.
