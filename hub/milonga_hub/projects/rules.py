"""What changed between two specs, and which limits hold for a device."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import compress
from typing import Any

from milonga import preprocessing
from milonga.plugins import listed
from milonga_compiler.errors import UnknownTarget
from milonga_compiler.target import Target

from milonga_hub.devices.selectors import parse
from milonga_hub.errors import InvalidInput, NotFound, PermissionDenied
from milonga_hub.projects.models import Limits, ProjectSpec, RetrainingPolicy, RolloutSpec
from milonga_hub.tasks import Task
from milonga_hub.times import check_schedule, free_at, hours, window, zone

# The names in learning/spaces, which the hub's process must not import; a test holds them equal.
SPACES: Mapping[Task, tuple[str, ...]] = {
    Task.CLASSIFICATION: ("mbv3", "resnet", "densenet"),
    Task.DETECTION: (
        "yolo",
        *(f"{family}{width}" for family in ("yolov8", "yolo11", "yolo26") for width in ("n", "s", "m")),
    ),
}
# Entry points of this group name further spaces for classification; a test holds it equal too.
PLUGGED_SPACES = "milonga.spaces"
# The largest stride of a detector.
_DETECTOR_STRIDE_PX = 32

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MOST_NAMED = 10


def check_known(project: str, known: Sequence[str]) -> None:
    """Raise NotFound where that is none of the known ones; "" means all."""
    if not project or project in known:
        return
    named = ", ".join(known[:_MOST_NAMED]) or "none yet"
    more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
    raise NotFound(f"there is no project {project!r}; there are: {named}{more}")


def check(name: str, spec: ProjectSpec) -> None:
    """Raise InvalidInput for what no field alone can tell: the name, selectors and targets."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is not a project name; use 1 to 63 of a-z, 0-9 and '-'")
    _check_selector(spec.selector, "spec.selector")
    for index, limits in enumerate(spec.limits):
        _check_selector(limits.selector, f"spec.limits[{index}].selector")
    _check_dataset(spec)
    check_parts(spec)
    _check_times(spec.retraining)
    check_rollout(spec.rollout, "spec.rollout")


def check_limited(name: str, known: ProjectSpec | None, spec: ProjectSpec) -> None:
    """Raise PermissionDenied where a key that is limited to projects would reach beyond them."""
    if known is None:
        raise PermissionDenied(f"there is no project {name}, and a key that is limited to projects makes none")
    for field in ("dataset", "selector"):
        if getattr(known, field) != getattr(spec, field):
            raise PermissionDenied(
                f"spec.{field} of {name} is {getattr(known, field)!r}; a key that is limited to projects leaves it so"
            )


def check_parts(spec: ProjectSpec) -> None:
    """Raise InvalidInput for a space, a step or a target that is not here; a plug-in's may have been here before."""
    if spec.dataset:
        _check_space(spec)
    _check_steps(spec)
    for target in spec.build.targets:
        try:
            Target.parse(target)
        except UnknownTarget as error:
            raise InvalidInput(f"spec.build.targets: {error}") from error


def _check_dataset(spec: ProjectSpec) -> None:
    """Raise InvalidInput where something needs the data set that the project does not have."""
    policy = spec.retraining
    needs = {
        "spec.retraining.accuracy": policy.accuracy.below is not None,
        "spec.retraining.new_labels": policy.new_labels,
        "spec.retraining.schedule": policy.schedule,
        "spec.samples": spec.samples.enabled,
    }
    # Drift is watched without one, too.
    what = "" if spec.dataset else next((name for name, is_wanted in needs.items() if is_wanted), "")
    if what:
        raise InvalidInput(f"{what} needs a data set to train on; name it: spec.dataset")


def _check_space(spec: ProjectSpec) -> None:
    space, size = spec.training.space, spec.training.resolution_px
    known = spaces(spec.task)
    if space not in known:
        elsewhere = [task for task, names in SPACES.items() if space in names]
        said = f"{space!r} is for {elsewhere[0].lower()}" if elsewhere else f"there is no space {space!r}"
        raise InvalidInput(f"spec.training.space: {said}; for {spec.task.lower()} take {', '.join(known)}")
    if spec.task is Task.DETECTION and size % _DETECTOR_STRIDE_PX:
        raise InvalidInput(
            f"spec.training.resolution_px: detectors need a multiple of {_DETECTOR_STRIDE_PX}, not {size}; take"
            f" {max(1, round(size / _DETECTOR_STRIDE_PX)) * _DETECTOR_STRIDE_PX}"
        )


def _check_steps(spec: ProjectSpec) -> None:
    """Raise InvalidInput for pre-processing that no plug-in of the hub brings, or where pictures have boxes."""
    wanted, known = spec.training.preprocessing, preprocessing.names()
    if wanted and spec.task is not Task.CLASSIFICATION:
        raise InvalidInput("spec.training.preprocessing: boxes would not move with the picture; take none to detect")
    if missing := [name for name in wanted if name not in known]:
        there = f"there are {', '.join(known)}" if known else "no plug-in of this hub brings any"
        raise InvalidInput(
            f"spec.training.preprocessing: there is no step {missing[0]!r}; {there}; see: milonga plugins list"
        )


def check_change(before: ProjectSpec, after: ProjectSpec) -> None:
    """Raise InvalidInput for a change after which versions of the project could not be compared."""
    old, new = before.training.preprocessing, after.training.preprocessing
    if old != new:
        said = f"it is {', '.join(old) or 'empty'} and cannot become {', '.join(new) or 'empty'}"
        raise InvalidInput(
            f"spec.training.preprocessing: {said}: versions are compared on the same pictures; apply a project of another name"
        )


def spaces(task: Task) -> tuple[str, ...]:
    """Return the spaces for this task, Milonga's own first. A plug-in's is loaded only by the job that trains in it."""
    own = [name for names in SPACES.values() for name in names]
    others = listed(PLUGGED_SPACES, own) if task is Task.CLASSIFICATION else ()
    return (*SPACES[task], *(one.name for one in others if not one.problem))


def _check_times(policy: RetrainingPolicy) -> None:
    with _at("spec.retraining.time_zone"):
        zone(policy.time_zone)
    with _at("spec.retraining.schedule"):
        if policy.schedule:
            check_schedule(policy.schedule, policy.time_zone)
    for index, text in enumerate(policy.quiet_hours):
        with _at(f"spec.retraining.quiet_hours[{index}]"):
            hours(text)
    if free_at(policy.quiet_hours, policy.time_zone, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise InvalidInput(
            "spec.retraining.quiet_hours: they fill the day, so that no run would ever start by itself; leave some hours, or"
            " leave out what starts runs"
        )


def check_rollout(spec: RolloutSpec, place: str = "spec") -> None:
    """Raise InvalidInput for selectors and windows that nobody could read."""
    _check_selector(spec.canaries, f"{place}.canaries")
    for index, selector in enumerate(spec.priorities):
        _check_selector(selector, f"{place}.priorities[{index}]")
    for index, text in enumerate(spec.windows):
        with _at(f"{place}.windows[{index}]"):
            window(text)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say where what is wrong stands."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {error}") from error


def _check_selector(selector: str, place: str) -> None:
    with _at(place):
        parse(selector)


def limits_for(spec: ProjectSpec, attributes: Mapping[str, str]) -> Limits:
    """Return the limits of a device: those whose selector matches it, later ones overriding earlier ones."""
    return limits_among(spec, [attributes])[0]


def limits_among(spec: ProjectSpec, devices: Iterable[Mapping[str, str]]) -> list[Limits]:
    """Return the limits that any of the devices, by what selectors see of them, has; each once."""
    selectors = [parse(limits.selector) for limits in spec.limits]
    held = {tuple(selector.matches(attributes) for selector in selectors) for attributes in devices}
    return [_merged(list(compress(spec.limits, matched))) for matched in sorted(held)]


def limits_of_type(spec: ProjectSpec, device_type: str) -> Limits | None:
    """Return the limits of all devices of a type; None where they depend on more of a device than its type."""
    if any(parse(limits.selector).keys - {"type"} for limits in spec.limits):
        return None
    return limits_for(spec, {"type": device_type})


def _merged(some: Sequence[Limits]) -> Limits:
    merged: dict[str, Any] = {}
    for limits in some:
        merged.update(limits.model_dump(exclude={"selector"}, exclude_none=True))
    return Limits(**merged)


def changes(before: ProjectSpec | None, after: ProjectSpec) -> list[str]:
    """Return what differs as "spec.training.epochs: 30 -> 40", in the order of the fields; empty where nothing does."""
    if before is None:
        return ["new project"]
    return differences("spec", before.model_dump(mode="json"), after.model_dump(mode="json"))


# Parts of a spec that hold from now on, for the networks that there are too.
_OF_NO_NETWORK = ("spec.samples.", "spec.retraining.", "spec.rollout.")


def worth_a_run(changed: Sequence[str], spec: ProjectSpec) -> bool:
    """Return whether something changed that a network depends on. Which pictures are sampled, when a run starts by itself and how
    versions are rolled out are no such things.

    Without a data set nothing is trained.
    """
    return bool(spec.dataset) and any(not line.startswith(_OF_NO_NETWORK) for line in changed)


def differences(path: str, before: Any, after: Any) -> list[str]:
    """Return what differs between two JSON values as "path: 30 -> 40", in the order of the fields."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [line for key in keys for line in differences(f"{path}.{key}", before.get(key), after.get(key))]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        return [line for index, (a, b) in enumerate(pairs) for line in differences(f"{path}[{index}]", a, b)]
    return [f"{path}: {_short(before)} -> {_short(after)}"]


def _short(value: Any) -> str:
    return "none" if value is None else str(value)
