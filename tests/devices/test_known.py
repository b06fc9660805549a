"""Boards known by name: which inventory is which, what is built for it, and how flawed entries are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from milonga_compiler.target import Target, known_targets
from milonga_hub.devices import rules
from milonga_hub.devices.known import FILE, load, shipped
from milonga_hub.devices.models import Accelerator, Engine, Inventory, Verification
from milonga_hub.devices.service import Enrolment, MeasuringPolicy
from milonga_hub.errors import InvalidInput

from tests.certificates import Key
from tests.devices.world import World

ROOT = Path(__file__).parent.parent.parent
HEAD = "kind: DeviceType\nname: a\nspec:\n"
GOOD = """kind: DeviceType
name: a
spec:
  title: A
  match: {boards: [a]}
  architecture: aarch64
  engines:
    - {engine: onnxruntime, precisions: [fp32]}
  verification: verified
"""
CORAL = Accelerator(kind="tpu", model="coral-edge-tpu")
ALL_ENGINES = [Engine(name=name) for name in ("litert", "ncnn", "onnxruntime", "openvino", "reference", "tensorrt")]


def _known(inventory: Inventory) -> str:
    found = rules.known_type(inventory, shipped())
    return found.name if found else ""


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-nano"),
        ("NVIDIA Orin NX Developer Kit", "jetson-orin-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("Jetson-AGX", "jetson-agx-xavier"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "jetson-xavier-nx"),
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5"),
        ("Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4"),
        ("Raspberry Pi 400 Rev 1.0", "raspberry-pi-4"),
        ("Raspberry Pi Compute Module 4 Rev 1.0", "raspberry-pi-4"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "raspberry-pi-zero-2"),
        ("Hardkernel ODROID-N2Plus", "odroid-n2"),
        ("Hardkernel ODROID-M1", "odroid-m1"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "generic-aarch64"),
        ("", "generic-aarch64"),
    ],
)
def test_a_board_is_known_by_the_name_in_its_device_tree(board: str, name: str) -> None:
    assert _known(Inventory(board=board, architecture="aarch64")) == name


@pytest.mark.parametrize(
    ("compatible", "name"),
    [
        (["vendor,carrier", "nvidia,p3767-0005", "nvidia,tegra234"], "jetson-orin-nano"),
        (["vendor,kiosk", "brcm,bcm2712"], "raspberry-pi-5"),
        (["xiaomi,umi", "qcom,sm8250"], "phone-snapdragon"),
        (["google,oriole", "google,gs101"], "phone-exynos"),
        (["mediatek,mt8195-demo", "mediatek,mt8195"], "phone-mediatek"),
        (["vendor,thing", "vendor,chip"], "generic-aarch64"),
    ],
)
def test_a_board_of_another_name_is_known_by_what_its_device_tree_is_compatible_with(
    compatible: list[str], name: str
) -> None:
    assert _known(Inventory(board="Some Kiosk", architecture="aarch64", compatible=compatible)) == name


def test_an_accelerator_makes_a_more_specific_type_of_a_board() -> None:
    pi = Inventory(board="Raspberry Pi 4 Model B Rev 1.4", architecture="aarch64", accelerators=[CORAL])
    assert _known(pi) == "raspberry-pi-4-coral"
    assert _known(pi.model_copy(update={"board": "Hardkernel ODROID-N2"})) == "odroid-n2"


def test_other_machines_are_known_by_their_architecture_or_not_at_all() -> None:
    assert _known(Inventory(board="Standard PC (Q35 + ICH9, 2009)", architecture="x86_64")) == "generic-x86-64"
    assert _known(Inventory(board="VisionFive 2", architecture="riscv64")) == ""


def test_a_simulated_board_is_known_by_the_name_that_it_stands_for() -> None:
    assert _known(Inventory(board="raspberry-pi-5", architecture="x86_64")) == "raspberry-pi-5"


def test_a_type_is_called_after_its_known_board_but_not_after_its_architecture() -> None:
    pi = Inventory(board="Raspberry Pi 5 Model B Rev 1.0", architecture="aarch64")
    pc = Inventory(board="Standard PC", architecture="x86_64")
    names = [rules.type_name(each, ("raspberry-pi-5",), rules.known_type(each, shipped())) for each in (pi, pc)]
    assert names == ["raspberry-pi-5-2", "standard-pc"]


def test_a_known_board_gets_what_suits_it_as_far_as_device_and_hub_can() -> None:
    pi = Inventory(board="Raspberry Pi 5", engines=ALL_ENGINES)
    known = rules.known_type(pi, shipped())
    everything = rules.default_targets(pi, known)
    assert everything[:4] == ["onnxruntime/fp32", "onnxruntime/int8", "litert/fp32", "litert/int8"]
    assert not any(target.startswith(("openvino", "reference", "tensorrt")) for target in everything)
    assert rules.default_targets(pi, known, ["litert"]) == ["litert/fp32", "litert/int8"]
    bare = pi.model_copy(update={"engines": [Engine(name="onnxruntime", precisions=["fp32"])]})
    assert rules.default_targets(bare, known) == ["onnxruntime/fp32"]


def test_a_device_without_an_engine_that_suits_its_board_gets_what_its_own_engines_offer() -> None:
    other = Inventory(board="Raspberry Pi 5", engines=[Engine(name="reference"), Engine(name="openvino")])
    unknown = Inventory(architecture="riscv64", engines=[Engine(name="reference"), Engine(name="onnxruntime")])
    assert rules.default_targets(other, rules.known_type(other, shipped())) == [
        "openvino/fp32", "openvino/fp16", "openvino/int8", "reference/fp32",
    ]  # fmt: skip
    assert rules.default_targets(unknown, None)[0] == "onnxruntime/fp32"
    assert rules.default_targets(unknown, None)[-1] == "reference/fp32"
    assert rules.default_targets(Inventory(), None) == []


def test_a_device_gets_only_targets_that_its_engines_run() -> None:
    inventory = Inventory(engines=[Engine(name="onnxruntime", precisions=["fp32"])])
    wanted = ["tensorrt/fp16", "onnxruntime/int8", "onnxruntime/fp32"]
    assert rules.usable_targets(wanted, inventory) == ["onnxruntime/fp32"]


def test_the_hub_tells_of_a_type_which_board_it_is_and_that_nobody_ran_it(tmp_path: Path) -> None:
    world = World(tmp_path, MeasuringPolicy())
    for name, board, architecture, simulated in (
        ("pi", "Raspberry Pi 5 Model B Rev 1.0", "aarch64", False),
        ("pc", "Standard PC", "x86_64", False),
        ("fake", "Standard PC", "x86_64", True),
    ):
        _, token = world.devices.create_join_token({}, uses=1)
        inventory = Inventory(board=board, architecture=architecture, engines=[Engine(name="onnxruntime")])
        world.devices.enrol(Enrolment(token, name, inventory, "0.1.0", simulated, {}, Key().request()))
    found = {one.name: one for one in world.devices.types()[0]}
    assert found["raspberry-pi-5"].known_type == "raspberry-pi-5"
    assert found["raspberry-pi-5"].targets == ["onnxruntime/fp32", "onnxruntime/int8"]
    assert found["raspberry-pi-5"].verification is Verification.UNVERIFIED
    assert world.devices.get_type("standard-pc").verification is Verification.VERIFIED
    assert world.devices.get_type("standard-pc-2").verification is Verification.UNVERIFIED


def test_every_entry_is_shipped_and_builds_only_what_can_be_built() -> None:
    names = [entry.name for entry in shipped()]
    assert names == sorted(path.stem for path in (ROOT / "fleet_configs" / "device_types").glob("*.yaml"))
    for entry in shipped():
        assert {str(Target.parse(target)) for target in entry.spec.targets} <= set(known_targets())


def test_only_what_the_makers_ran_is_called_verified() -> None:
    assert [one.name for one in shipped() if one.spec.verification is Verification.VERIFIED] == ["generic-x86-64"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title: A", "titel: A", r'a\.yaml:4: unknown key "titel" in spec; did you mean \'title\''),
        ("{boards: [a]}", "{}", r"a\.yaml:5: spec\.match: .*name boards, compatible or architectures"),
        ("engine: onnxruntime", "engine: onnx", r"a\.yaml:8: spec\.engines\.0\.engine: .*there is no engine 'onnx'"),
        ("[fp32]", "[int4]", r"a\.yaml:8: spec\.engines\.0\.precisions\.0: .*'fp32', 'fp16' or 'int8'"),
        ("onnxruntime, precisions: [fp32]", "litert, precisions: [fp16]", r"a\.yaml:8: .*litert is not built in fp16"),
        (": verified", ": probably", r"a\.yaml:9: spec\.verification: .*'not verified on hardware'"),
        ("name: a", "name: b", r"a\.yaml: the entry is called 'b'; call its file b\.yaml"),
        ("kind: DeviceType", "kind: Project", r"a\.yaml:1: kind must be DeviceType"),
    ],
)
def test_a_flawed_entry_is_refused_by_file_and_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert FILE.parse(GOOD, "a.yaml")[0] == "a"
    (tmp_path / "a.yaml").write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(InvalidInput, match=said):
        load(tmp_path)
