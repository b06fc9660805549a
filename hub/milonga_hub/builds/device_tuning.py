"""Answer a build job that tunes for devices: what it compiled is signed, timed on a device of the type, and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from milonga_compiler.timing import MOST_SECONDS_EACH, Times, count_in

from milonga_hub.builds.models import Build, BuildTuning
from milonga_hub.builds.sessions import TuningSessions
from milonga_hub.devices.models import Device, File
from milonga_hub.devices.service import Timed, TimingItem
from milonga_hub.errors import FailedPrecondition, MilongaError

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
        build: Build,
        tuning: BuildTuning,
        project: str,
        sessions: TuningSessions,
        devices: Timers,
        tell: Callable[[str], None],
    ) -> None:
        self._build, self._tuning, self._project = build, tuning, project
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
        session = await asyncio.to_thread(self._sessions.open, self._project, self._build.device_type)
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
                self._build.device_type, item, self._tuning.wanted_device, self._device, tell=self._tell
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


def threads_of(build: Build, tuning: BuildTuning, devices: list[Device]) -> int:
    """Return how many threads the devices run models with. Raises FailedPrecondition where the wanted one is not of the type."""
    of_type = [one for one in devices if one.device_type == build.device_type]
    if tuning.wanted_device and all(one.name != tuning.wanted_device for one in of_type):
        known = ", ".join(one.name for one in of_type) or "no device"
        raise FailedPrecondition(
            f"{tuning.wanted_device} is not a device of type {build.device_type}; of that type: {known}"
        )
    threads = [one.inventory.threads for one in of_type if tuning.wanted_device in ("", one.name)]
    return max(1, min(threads, default=1))
