"""From devices: what they may send, and what arrives. Nothing of it is believed."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np
from milonga import pictures
from PIL import Image, UnidentifiedImageError
from sqlmodel import Session, col, func, select

from milonga_hub.blobs import Blobs, digest_of
from milonga_hub.db import Database, utc_now
from milonga_hub.devices.models import Device
from milonga_hub.devices.service import DeviceService, SamplingPolicy
from milonga_hub.errors import InvalidInput, NotFound, PermissionDenied, QuotaExceeded, ResourceExhausted
from milonga_hub.events import Event, EventBus
from milonga_hub.labelling import rules
from milonga_hub.labelling.models import QueuedSample, SampleSource, SampleState, SampleView
from milonga_hub.projects.models import Project
from milonga_hub.projects.service import ProjectService

_log = logging.getLogger(__name__)

# Of a digest, in names: enough that no two pictures of a fleet share it.
_NAME_DIGITS = 20
# What agents send; fewer decoders are fewer ways in.
_FORMATS = ("PNG", "JPEG")
# Pictures whose looks a new one is compared with: 1 MB of them, some 10 ms.
_COMPARED = 5000
# Beyond this nobody keeps up with labelling: pictures wait on their devices, which drop the oldest.
_MOST_WAITING = 10_000
# A look is made of a picture of so many pixels, for the size of the picture must not show in it.
_LOOK_PX = 64


class SampleIntake:
    def __init__(
        self,
        database: Database,
        events: EventBus,
        devices: DeviceService,
        projects: ProjectService,
        pictures: Blobs,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`pictures` holds them until their labels make them part of a data set."""
        self._database = database
        self._events = events
        self._devices = devices
        self._projects = projects
        self.pictures = pictures
        self._clock = clock
        # Raises QuotaExceeded where a project may not keep so many bytes more.
        self.may_grow: Callable[[str, int], None] = lambda project, added_bytes: None
        self._keeping = database.turn("samples")
        self._told: dict[str, SamplingPolicy] = {}
        # Of the assignment that a device was last looked at with, 0 for none: most news of devices concerns no policy.
        self._generations: dict[str, int] = {}

    # What devices may do

    def policy(self, device: str) -> SamplingPolicy:
        """Return what the device may keep and send, by the project that it is assigned to."""
        return self._policy(self._project(device))

    @staticmethod
    def _policy(project: Project | None) -> SamplingPolicy:
        if project is None:
            return SamplingPolicy()
        spec = project.spec.samples
        return SamplingPolicy(
            project=project.name,
            enabled=spec.enabled,
            least_confident=spec.least_confident,
            novel=spec.novel,
            random=spec.random,
            pictures_per_day=spec.pictures_per_day,
            bytes_per_day=rules.bytes_per_day(spec),
            max_side_px=spec.max_side_px,
        )

    async def run(self) -> None:
        """Tell connected devices whenever what they may do has changed, until cancelled."""
        with self._events.listen("devices/", "projects/") as news:
            async for event in news:
                self.tell([device for each in (event, *news.waiting()) for device in self._concerned(each)])

    def tell(self, devices: Sequence[str]) -> None:
        """Send each device its policy if it differs from what this hub told it last."""
        projects = self._devices.assigned_projects(devices) if devices else {}
        policies = {name: self._policy(self._known(name)) for name in {"", *projects.values()}}
        for device in devices:
            policy = policies[projects.get(device, "")]
            if self._told.get(device) != policy:
                self._told[device] = policy
                self._devices.tell_sampling(device, policy)

    def greet(self, device: str) -> SamplingPolicy:
        """Return the policy for a device that has just connected."""
        policy = self._told[device] = self.policy(device)
        return policy

    def _concerned(self, event: Event) -> list[str]:
        kind, _, name = event.topic.partition("/")
        if kind == "devices":
            generation = event.payload.assigned_generation
            if self._generations.get(name, 0) == generation:
                return []
            self._generations[name] = generation
            return [name]
        if "/" in name:
            return []  # News of a run.
        return [device for device, policy in self._told.items() if policy.project == name]

    def _project(self, device: str) -> Project | None:
        assignment = self._devices.assignment(device)
        return None if assignment is None else self._known(assignment.project)

    def _known(self, project: str) -> Project | None:
        try:
            return self._projects.get(project) if project else None
        except NotFound:
            return None

    def _allowed(self, device: str, project: str) -> Project:
        """Return the project that the device may send pictures for. Raises PermissionDenied."""
        found = self._project(device)
        if found is None or found.name != project:
            raise PermissionDenied(f"{device} is not assigned to the project {rules.text(project)!r}")
        if not found.spec.samples.enabled:
            raise PermissionDenied(
                f"the project {found.name} lets no pictures leave its devices; to change that: spec.samples.enabled: true"
            )
        return found

    # What they send

    def offer(
        self, device: str, project: str, digests: Sequence[str], dropped_count: int
    ) -> tuple[list[str], list[str]]:
        """Return which of the pictures the device may send now, and which it may forget. Raises PermissionDenied."""
        spec = self._allowed(device, project).spec.samples
        with self._database.session() as session:
            source = session.get(SampleSource, (device, project)) or SampleSource(device=device, project=project)
            source.dropped_count, source.told_at = max(0, dropped_count), self._clock()
            session.add(source)
            done = [one for one in digests if session.get(QueuedSample, _name(project, one)) is not None]
            sent = self._sent(session, device)
        stopped = self.what_stops(project)
        if stopped:
            _log.warning("pictures wait on their devices: %s", stopped)
            return [], done
        return rules.within_day(spec, *sent, [one for one in digests if one not in done]), done

    def what_stops(self, project: str) -> str:
        """Return why no device may send pictures for the project now, and what to do about it; "" where they may."""
        waiting = select(func.count(), func.avg(QueuedSample.size_bytes)).where(
            QueuedSample.project == project, QueuedSample.state == SampleState.WAITING, QueuedSample.kept
        )
        with self._database.session() as session:
            count, mean_bytes = session.exec(waiting).one()
        if count >= _MOST_WAITING:
            return (
                f"{count:,} pictures of {project} wait to be labelled, and no more are taken: label some, or delete all that wait"
                f" (milonga samples discard {project})"
            )
        try:
            # A quota is as good as full where the next picture has no room, if it is like those that wait.
            self.may_grow(project, int(mean_bytes or 1))
        except (QuotaExceeded, InvalidInput) as error:
            # A file of quotas that cannot be read lets nothing through.
            return str(error)
        return ""

    def size_bytes(self, project: str) -> int:
        """Return what the pictures take that are kept for the project here."""
        kept = select(func.coalesce(func.sum(QueuedSample.size_bytes), 0))
        with self._database.session() as session:
            return int(session.exec(kept.where(QueuedSample.project == project, QueuedSample.kept)).one())

    def expect(self, device: str, told: SampleView) -> None:
        """Raise PermissionDenied or ResourceExhausted where the announced picture must not be sent."""
        spec = self._allowed(device, told.project).spec.samples
        self.may_grow(told.project, told.size_bytes)
        if not 0 < told.size_bytes <= rules.MAX_SAMPLE_BYTES:
            raise InvalidInput(f"a picture has 1 to {rules.MAX_SAMPLE_BYTES:,} bytes, not {told.size_bytes:,}")
        with self._database.session() as session:
            sent = self._sent(session, device)
        if not rules.within_day(spec, *sent, [told.digest]):
            raise ResourceExhausted(
                f"{device} has sent {sent[0]} pictures of {sent[1]:,} bytes in 24 hours, which is what its project allows"
            )

    def receive(self, device: Device, told: SampleView, data: bytes) -> SampleView:
        """Keep a picture and return what became of it, also where it is no picture. May be called from any thread.

        Raises InvalidInput where the bytes are not what was announced, PermissionDenied where they may not be sent.
        """
        project = self._allowed(device.name, told.project)
        if digest_of(data) != told.digest:
            raise InvalidInput("the picture is not the one that was announced: its digest differs; send it again")
        sample = self._sample(device, told)
        with self._database.session() as session:
            known = session.get(QueuedSample, sample.name)
        if known is not None:
            return known
        try:
            self._look_at(sample, data, project.spec.samples.max_side_px)
        except pictures.PictureError as error:
            sample.state, sample.message, sample.kept = SampleState.REFUSED, rules.text(str(error)), False
            _log.warning("refused a picture of %s: %s", device.name, sample.message)
        else:
            sample.like = self._like(sample)
            # Of pictures that look the same one is enough; that there were more is noted.
            sample.kept = not sample.like
        if sample.kept:
            self.pictures.put(data)
        with self._keeping, self._database.session() as session:
            # Another device may have sent the same picture meanwhile, and somebody labelled it.
            known = session.get(QueuedSample, sample.name)
            if known is not None:
                return known
            session.add(sample)
        self._events.publish(f"samples/{sample.project}", sample)
        return sample

    def _sample(self, device: Device, told: SampleView) -> QueuedSample:
        now = self._clock()
        name = _name(told.project, told.digest)
        return QueuedSample(
            name=name,
            project=told.project,
            digest=told.digest,
            device=device.name,
            device_type=device.device_type,
            model_version=rules.text(told.model_version),
            reason=told.reason,
            predicted=rules.text(told.predicted),
            predicted_boxes=rules.told_boxes(told.predicted_boxes),
            confidence=rules.fraction(told.confidence),
            taken_at=told.taken_at,
            received_at=now,
            size_bytes=told.size_bytes,
            arrival=f"{now.isoformat()} {name}",
        )

    def _look_at(self, sample: QueuedSample, data: bytes, max_side_px: int) -> None:
        """Note size and look. Raises PictureError for what is no picture, or larger than the project lets it be."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                    size = image.size
        except UnidentifiedImageError as error:
            raise pictures.PictureError("not a PNG or JPEG picture") from error
        except Exception as error:  # Pillow raises many kinds; see pictures.decode.
            raise pictures.PictureError(f"not a PNG or JPEG picture: {error}") from error
        if max(size) > max_side_px:
            raise pictures.PictureError(
                f"the picture has {size[0]} x {size[1]} pixels; the project takes {max_side_px}"
            )
        decoded = pictures.decode(data)
        sample.width, sample.height = decoded.size
        sample.look = rules.stored_look(pictures.look(np.asarray(pictures.to_array(decoded, _LOOK_PX))))

    def _like(self, sample: QueuedSample) -> str:
        """Return the name of an earlier sample that looks the same, "" for none."""
        statement = select(QueuedSample.name, QueuedSample.look).where(
            QueuedSample.project == sample.project,
            QueuedSample.like == "",
            col(QueuedSample.state).in_([SampleState.WAITING, SampleState.LABELLED]),
        )
        with self._database.session() as session:
            known = session.exec(statement.order_by(col(QueuedSample.arrival).desc()).limit(_COMPARED)).all()
        place = rules.alike(rules.look_of(sample.look), [look for _, look in known])
        return "" if place is None else known[place][0]

    def _sent(self, session: Session, device: str) -> tuple[int, int]:
        """Return how many pictures and bytes the device has sent in the last 24 hours."""
        sums = select(func.count(), func.coalesce(func.sum(QueuedSample.size_bytes), 0)).where(
            QueuedSample.device == device, col(QueuedSample.received_at) > self._clock() - rules.DAY
        )
        count, size_bytes = session.exec(sums).one()
        return int(count), int(size_bytes)


def _name(project: str, digest: str) -> str:
    return f"projects/{project}/samples/{digest.removeprefix('sha256:')[:_NAME_DIGITS]}"
