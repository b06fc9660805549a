"""Answer a build job that tunes for devices: what it compiled is signed, timed on a device of the type, and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from milonga_compiler.timing import MOST_SECONDS_EACH, Times, count_in

from milonga_hub.builds.sessions import TuningSessions
from milonga_hub.builds.tuned import asked_on_devices
from milonga_hub.devices.models import Device, File
from milonga_hub.devices.service import Timed, TimingItem
from milonga_hub.errors import FailedPrecondition, MilongaError
from milonga_hub.jobs import OnQuestion

# Long enough that a busy device's noise does not choose, and ten times as long as MetaSchedule takes on a machine of its own.
_SECONDS_EACH = 0.3
# Of one file of kernels: a turn of slow ones is cut, or a device would be kept from measuring for many minutes.
_MOST_SECONDS = 300.0


class Timers(Protocol):
    """What tuning needs of DeviceService."""

    def matching(self, selector: str) -> list[Device]: ...
    async def time_kernels(
        self,
        device_type: str,
        item: TimingItem,
        wanted: str = "",
        preferred: str = "",
        *,
        tell: Callable[[str], None] = lambda words: None,
    ) -> Timed: ...


class DeviceTuning:
    """One build's; `answer` is for its job's questions. It keeps to one device as long as that is there."""

    def __init__(
        self,
        project: str,
        device_type: str,
        wanted_device: str,
        sessions: TuningSessions,
        devices: Timers,
        tell: Callable[[str], None],
    ) -> None:
        """`wanted_device` is the one of the type that times them, or empty for any."""
        self._project, self._device_type, self._wanted_device = project, device_type, wanted_device
        self._sessions, self._devices, self._tell = sessions, devices, tell
        self._device = ""

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return Times as JSON for {"kernels": FILE}; where no device timed them, with why as `gone`."""
        try:
            times = await self._times(Path(question["kernels"]))
        except MilongaError as error:
            times = Times(gone=str(error))
        return times.as_json()

    async def _times(self, kernels: Path) -> Times:
        count = await asyncio.to_thread(count_in, kernels)
        session = await asyncio.to_thread(self._sessions.open, self._project, self._device_type)
        digest = await asyncio.to_thread(self._sessions.blobs.put_file, kernels)
        item = TimingItem(
            session=session.file,
            kernels=File(path="kernels.zip", digest=digest, size_bytes=kernels.stat().st_size),
            signature=session.sign(digest),
            count=count,
            seconds_each=_SECONDS_EACH,
            max_seconds_each=MOST_SECONDS_EACH,
            max_seconds=min(_MOST_SECONDS, count * MOST_SECONDS_EACH),
        )
        try:
            timed = await self._devices.time_kernels(
                self._device_type, item, self._wanted_device, self._device, tell=self._tell
            )
        finally:
            await asyncio.to_thread(self._sessions.blobs.delete, digest)
        self._device = timed.device
        return Times(
            tuple(one.ms if one.ms > 0 and not one.error else None for one in timed.kernels),
            tuple(one.error for one in timed.kernels),
            timed.device,
            timed.waited_seconds,
        )


class DeviceTunings:
    """Lets build jobs tune on devices, with the sessions that these trust."""

    def __init__(self, sessions: TuningSessions, devices: Timers) -> None:
        self._sessions, self._devices = sessions, devices

    def asked_of_job(
        self, project: str, root: Path, device_type: str, minutes: float, wanted_device: str = ""
    ) -> dict[str, Any]:
        """Return what a build job is told; `root` is where the project's tuned kernels lie. See tuned.py.

        Raises FailedPrecondition where the wanted device is none of the type, or the owners of keys have not allowed it yet.
        """
        threads = threads_of(device_type, wanted_device, self._devices.matching(""))
        # Before anything begins: without a signature all of it would be for nothing.
        self._sessions.open(project, device_type)
        return asked_on_devices(root, device_type, minutes, wanted_device, threads)

    def answering(
        self, project: str, device_type: str, tell: Callable[[str], None], wanted_device: str = ""
    ) -> OnQuestion:
        """Return what answers the job's questions; what devices are waited for is told."""
        return DeviceTuning(project, device_type, wanted_device, self._sessions, self._devices, tell).answer


def threads_of(device_type: str, wanted_device: str, devices: list[Device]) -> int:
    """Return how many threads the devices run models with. Raises FailedPrecondition where the wanted one is not of the type."""
    of_type = [one for one in devices if one.device_type == device_type]
    if wanted_device and all(one.name != wanted_device for one in of_type):
        known = ", ".join(one.name for one in of_type) or "no device"
        raise FailedPrecondition(f"{wanted_device} is not a device of type {device_type}; of that type: {known}")
    threads = [one.inventory.threads for one in of_type if wanted_device in ("", one.name)]
    return max(1, min(threads, default=1))
