"""Look into a connected device from afar, and want it to start anew, profile or upgrade itself. There is no remote shell."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from sqlmodel import Session

from milonga_hub.db import Database
from milonga_hub.devices import rules_upgrades
from milonga_hub.devices.models import Conditions, Device, Measurement
from milonga_hub.devices.streams import DeviceLost, Streams
from milonga_hub.devices.values import AgentRelease, Care, HelpAnswer, HelpKind, HelpTask, Profile
from milonga_hub.errors import FailedPrecondition, MilongaError

_log = logging.getLogger(__name__)

LOG_SECONDS = 15.0
SECONDS = {HelpKind.LOG: LOG_SECONDS, HelpKind.DIAGNOSTICS: 90.0}
_MAX_BYTES = 512 * 1024


class Helping:
    """Asks devices, one question a time and device. What operators want is kept; devices count what they have done."""

    def __init__(self, database: Database, streams: Streams, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._streams = streams
        self._clock = clock
        self._asked: dict[tuple[str, str], asyncio.Future[HelpAnswer]] = {}
        # What makes the agent that fits this hub; a hub that signs nothing has none.
        self.release: Callable[[], AgentRelease] = _no_release
        # What devices may fetch to upgrade, until their streams end.
        self._upgrading: dict[str, AgentRelease] = {}
        # Makes releases, which takes longer than the event loop can wait; one thread, so that what is said later arrives later.
        self._making = ThreadPoolExecutor(1, thread_name_prefix="agent-release")

    async def ask(self, device: str, kind: HelpKind, cursor: str = "", max_bytes: int = 0) -> HelpAnswer:
        """Return the device's answer. Raises FailedPrecondition where it is off line, too old or does not answer."""
        stream = self._streams.anywhere(device)
        if stream is None:
            raise FailedPrecondition(
                f"{device} is off line; it can be asked when it is back: milonga devices show {device}"
            )
        task = HelpTask(uuid.uuid4().hex, kind, cursor, min(max_bytes, _MAX_BYTES))
        answer: asyncio.Future[HelpAnswer] = asyncio.get_running_loop().create_future()
        self._asked[device, task.id] = answer
        try:
            stream.send(f"help/{task.id}", task)
            async with asyncio.timeout(SECONDS[kind]):
                found = await answer
        except TimeoutError as error:
            raise FailedPrecondition(
                f"{device} did not answer within {SECONDS[kind]:g} s; its agent may be of before it could: update it"
            ) from error
        except DeviceLost as error:
            raise FailedPrecondition(f"{error}; ask again when it is back") from error
        finally:
            del self._asked[device, task.id]
        if found.error:
            raise FailedPrecondition(f"{device}: {found.error}")
        return found

    def answered(self, device: str, answer: HelpAnswer) -> None:
        """Take an answer; one that nobody waits for (any more) is dropped."""
        asked = self._asked.get((device, answer.id))
        if asked is not None and not asked.done():
            asked.set_result(answer)

    def lost(self, device: str) -> None:
        """Nobody answers any more: the device's stream has ended."""
        self._upgrading.pop(device, None)
        for (name, _), asked in self._asked.items():
            if name == device and not asked.done():
                asked.set_exception(DeviceLost(f"{device} disconnected"))

    def want(
        self,
        session: Session,
        device: Device,
        *,
        restart: bool = False,
        profile: bool = False,
        upgrade: AgentRelease | None = None,
    ) -> None:
        """Want it once more than the device has done, or than was wanted."""
        if restart:
            device.wanted_restarts = max(device.wanted_restarts, device.restarts) + 1
        if profile:
            device.wanted_profiles = max(device.wanted_profiles, device.profiles) + 1
        if upgrade is not None:
            device.wanted_upgrades = max(device.wanted_upgrades, device.upgrades) + 1
            device.agent_upgrade = rules_upgrades.wanted(upgrade.version, device.state, self._clock())
        session.add(device)

    def send(self, device: Device) -> None:
        """Tell a connected device what it has not done yet; others hear it when they connect."""
        counts = device.wanted_restarts, device.wanted_profiles, device.wanted_upgrades
        if all(
            wanted <= done
            for wanted, done in zip(counts, (device.restarts, device.profiles, device.upgrades), strict=True)
        ):
            return
        if device.wanted_upgrades > device.upgrades:
            self._making.submit(self._send_release, device.name, counts)
        else:
            self._streams.send(device.name, "care", Care(*counts, None))

    def _send_release(self, device: str, counts: tuple[int, int, int]) -> None:
        release = None
        try:
            release = self._upgrading[device] = self.release()
        except MilongaError as error:
            _log.warning("%s cannot upgrade its agent: %s", device, error)
        except Exception:
            _log.exception("%s cannot upgrade its agent", device)
        self._streams.send(device, "care", Care(*counts, release))

    def digests_for(self, device: str) -> set[str]:
        """Return what the device may fetch to upgrade its agent."""
        release = self._upgrading.get(device)
        return set() if release is None else {file.digest for file in (release.manifest, *release.wheels)}

    def profiled(self, session: Session, device: Device, profile: Profile) -> None:
        """Keep what the device found; told again, it takes the place of what was told before."""
        device.inventory = profile.inventory
        session.add(device)
        result = profile.measurement
        if result is None:
            return
        latency = result.latency_ms if not result.error else None
        engine, _, precision = profile.engine.partition("/")
        session.merge(
            Measurement(
                id=f"{device.name}:profile:{profile.number}",
                device=device.name,
                device_type=device.device_type,
                subnet="",
                engine=engine,
                precision=precision,
                median_ms=latency.p50 if latency else None,
                p90_ms=latency.p90 if latency else None,
                p99_ms=latency.p99 if latency else None,
                repeats=latency.count if latency else 0,
                **{name: getattr(result, name) for name in Conditions.model_fields},
                measured_at=self._clock(),
                purpose="profile",
                error=result.error,
            )
        )


def _no_release() -> AgentRelease:
    raise FailedPrecondition("this hub has no agent to upgrade to")
