"""What users may write of a simulation, and what they are told where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from milonga_agent.simulation.spec import Simulation
from milonga_hub.devices.known import shipped as known_types
from milonga_hub.devices.models import Inventory
from milonga_hub.devices.rules import known_type
from milonga_hub.errors import InvalidInput, NotFound
from milonga_hub.simulation.machines import inventory, machines
from milonga_hub.simulation.spec import FILE, MachineSpec, load, shipped

ROOT = Path(__file__).parent.parent.parent
_HEAD = "kind: Simulation\nname: mine\nspec:\n  machines: [{type: raspberry-pi-5}]\n"


@pytest.mark.parametrize("name", shipped())
def test_every_profile_that_comes_with_the_hub_can_be_simulated(name: str) -> None:
    named, spec = load(name)
    assert named == name
    said = {**spec.message(), "machines": machines(spec.machines, known_types())}
    simulation = Simulation.of({**said, "hub": "127.0.0.1:1", "join_token": "t", "devices": 10})
    assert len(simulation.machines) == len(spec.machines) and len(simulation.faults) == len(spec.faults)


def test_the_profiles_are_the_examples() -> None:
    assert shipped() == sorted(path.stem for path in (ROOT / "fleet_configs" / "simulations").glob("*.yaml"))


@pytest.mark.parametrize("known", known_types(), ids=lambda known: known.name)
def test_a_simulated_machine_is_recognised_as_its_type(known: object) -> None:
    wanted = next(each for each in known_types() if each is known)
    assert known_type(Inventory.model_validate(inventory(wanted)), known_types()) is wanted


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("{fault: slow, hours: 3}", "slow takes no hours; it takes factor, share"),
        ("{fault: clock}", "clock needs hours"),
        ("{fault: offline, every_seconds: 10}", "longer than for_seconds"),
        ("{fault: offline, for_seconds: 10, every_seconds: 10}", "longer than for_seconds"),
        ("{fault: reconnect, for_seconds: 10}", "take offline"),
        ("{fault: sleepy}", "fault"),
        ("{fault: upgrade, ends: BADLY}", "'FALLS_BACK', 'REFUSED' or 'SILENT'"),
        ("{fault: offline, share: 2}", "less than or equal to 1"),
    ],
)
def test_a_script_that_is_wrong_is_told_of_with_its_line(fault: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=r"mine\.yaml:\d") as refused:
        FILE.parse(f"{_HEAD}  faults:\n    - {fault}\n", "mine.yaml")
    assert said in str(refused.value)


def test_types_and_profiles_that_do_not_exist_are_told_of_with_those_that_do() -> None:
    with pytest.raises(InvalidInput, match=r"no device type toaster; there are: .*raspberry-pi-5"):
        machines([MachineSpec(type="toaster")], known_types())
    with pytest.raises(NotFound, match=r"no profile 'calm'; name a file.yaml, or one of: .*mixed"):
        load("calm")
