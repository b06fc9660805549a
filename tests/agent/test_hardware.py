"""What the device tree and the buses of a board tell, read from a folder that looks like one."""

from __future__ import annotations

from pathlib import Path

from milonga_agent.hardware import accelerators, compatible


def _write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def test_a_coral_is_found_on_usb_before_and_after_its_firmware_and_on_pci_express(tmp_path: Path) -> None:
    for place, vendor, product in (("1-1", "1a6e", "089a"), ("2-1", "18d1", "9302"), ("usb1", "1d6b", "0002")):
        _write(tmp_path, f"sys/bus/usb/devices/{place}/idVendor", vendor + "\n")
        _write(tmp_path, f"sys/bus/usb/devices/{place}/idProduct", product + "\n")
    _write(tmp_path, "sys/bus/usb/devices/1-1:1.0/bInterfaceClass", "fe\n")
    _write(tmp_path, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x1ac1\n")
    _write(tmp_path, "sys/bus/pci/devices/0000:01:00.0/device", "0x089a\n")
    assert [(one.kind, one.model) for one in accelerators(tmp_path)] == [("tpu", "coral-edge-tpu")] * 3


def test_a_machine_without_buses_has_no_accelerators(tmp_path: Path) -> None:
    assert accelerators(tmp_path) == []


def test_the_device_tree_names_the_board_first_and_its_chip_last(tmp_path: Path) -> None:
    assert compatible(tmp_path) == []
    _write(tmp_path, "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert compatible(tmp_path) == ["raspberrypi,5-model-b", "brcm,bcm2712"]
