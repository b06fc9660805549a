"""Where a project's tuned kernels lie: a folder for each architecture that the hub tunes for, one for each type that its devices tuned for.

What the hub timed is never in one folder with what devices timed: the fastest of both would be the one that was timed on the faster
processor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from milonga_compiler.tuned_kernels import RECORDS

_ON_DEVICES = "on-devices"


def on_devices(root: Path, device_type: str) -> Path:
    """Return where kernels lie that devices of the type tuned for. `root` is the project's."""
    return root / _ON_DEVICES / device_type


def on_hub(root: Path, architecture: str) -> Path:
    """Return where kernels lie that the hub tuned for."""
    return root / (architecture or "hub")


def root_of(database: Path) -> Path:
    """Return the project's root of one of its folders."""
    return database.parent.parent if database.parent.name == _ON_DEVICES else database.parent


def asked_of_job(root: Path, architecture: str, device_type: str, minutes: float) -> dict[str, Any]:
    """Return what a build job is told where nobody asks for a tuning on devices: what they tuned before is taken as it is."""
    own = on_devices(root, device_type)
    if (own / RECORDS).exists() and (own / RECORDS).stat().st_size:
        return {"tuning_minutes": 0.0, "tuning_database": str(own)}
    return {"tuning_minutes": minutes, "tuning_database": str(on_hub(root, architecture))}


def asked_on_devices(root: Path, device_type: str, minutes: float, wanted_device: str, threads: int) -> dict[str, Any]:
    """Return what a build job is told where devices of the type time kernels, one that is named or any of them."""
    return {
        "tuning_minutes": minutes,
        "tuning_database": str(on_devices(root, device_type)),
        "tuning_on": {"device": wanted_device, "threads": threads},
    }
