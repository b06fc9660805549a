"""Read a project of TANGO: project_info.yaml and the files that it names.

The keys are those of TANGO's own guide and sample files (github.com/ML-TANGO/TANGO, docs/yaml_file_guide.md). Whatever has no equal here
is named in `notes`, with what takes its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from milonga_hub.errors import InvalidInput
from milonga_hub.projects.models import BuildSpec, DetectionSpec, Limits, ProjectSpec, TrainingSpec
from milonga_hub.projects.rules_questions import document
from milonga_hub.tasks import Task

_STEP_PX, _LEAST_PX, _MOST_PX = 32, 32, 640
_USUAL_PX = {Task.CLASSIFICATION: 224, Task.DETECTION: 640}
# TANGO's names of targets, letters and digits alone -> the selector of devices that are it.
_TARGETS = {
    "agxorin": "type=jetson-agx-orin",
    "agxxavier": "type=jetson-agx-xavier",
    "jetsonagxorin": "type=jetson-agx-orin",
    "jetsonagxxavier": "type=jetson-agx-xavier",
    "jetsonnano": "type=jetson-nano",
    "odroidm1": "type=odroid-m1",
    "odroidn2": "type=odroid-n2",
    "odroidn2plus": "type=odroid-n2",
    "raspberrypi5": "type=raspberry-pi-5",
    "rpi5": "type=raspberry-pi-5",
    "galaxys22": "type in (phone-exynos, phone-snapdragon)",
}
# Wherever there is a machine: which, labels decide.
_ANYWHERE = frozenset({"cloud", "k8s", "pc", "pcserver", "pcweb", "ondevice"})
_ENGINES = {
    "tensorrt": "tensorrt",
    "tflite": "litert",
    "tvm": "tvm",
    "onnx": "onnxruntime",
    "onnxruntime": "onnxruntime",
}
_SPACES = {"resnet": "resnet", "densenet": "densenet", "mobilenet": "mbv3", "bb_nas": "mbv3"}
_SIZES = {"n": "n", "t": "n", "s": "s", "m": "m"}
_MEASURED = "every device type gets the network that measurement and search find for it"
_WITHOUT_EQUAL = {
    "lightweight_level": _MEASURED,
    "precision_level": "precisions are built, measured and held to spec.build.max_accuracy_loss_points",
    "memory": "devices report their memory; a limit is spec.limits.memory_bytes",
    "cpu": "devices report their processor",
    "os": "devices report their system",
    "target_hostip": "devices connect to the hub by themselves",
    "target_hostport": "devices connect to the hub by themselves",
    "target_ip": "devices connect to the hub by themselves",
    "target_port": "devices connect to the hub by themselves",
    "target_serviceport": "the agent serves the Open Inference Protocol on its own port",
    "nfs_ip": "builds come signed from the hub",
    "nfs_path": "builds come signed from the hub",
    "preprocessing_lib": "pre-processing is part of every bundle",
    "vision_lib": "pre-processing is part of every bundle",
    "input_source": "pictures come by the Open Inference Protocol",
    "input_method": "pictures come by the Open Inference Protocol",
    "input_data_location": "pictures come by the Open Inference Protocol",
    "output_method": "answers go back by the Open Inference Protocol",
    "user_editing": "milonga-compiler example writes a program to change",
    "deployment": "deployment goes in waves: spec.rollout",
}


@dataclass(frozen=True)
class Found:
    """A project as it can be applied here, where its pictures are, and what has no equal."""

    name: str
    spec: ProjectSpec
    # As it stands in dataset.yaml; None where none was found.
    pictures: Path | None
    notes: list[str]

    @property
    def text(self) -> str:
        """Return the project file."""
        return document(self.name, self.spec)


def read(folder: Path, name: str = "") -> Found:
    """Read a TANGO project's folder. Raises InvalidInput naming the file and the key that cannot be used."""
    info = _mapping(folder / "project_info.yaml")
    network = _mapping(folder / "neural_net_info.yaml", needed=False)
    notes = [
        f"{key}: {info[key]} is left out: {why}" for key, why in _WITHOUT_EQUAL.items() if info.get(key) is not None
    ]
    task = _task(info)
    name = name or _name(str(info.get("project_name") or folder.resolve().name))
    dataset_file = _named(folder, info.get("dataset"), "dataset.yaml", "datasets.yaml")
    if (folder / "deployment.yaml").exists():
        notes.append("deployment.yaml is left out: it is made anew for each bundle (milonga-compiler export --tango)")
    spec = ProjectSpec(
        task=task,
        dataset=name,
        selector=_selector(info, notes),
        limits=_limits(_named(folder, info.get("target"), "target.yaml"), notes),
        training=TrainingSpec(space=_space(info, task, notes), resolution_px=_resolution(network, task, notes)),
        build=BuildSpec(targets=_targets(info, network, notes)),
        detection=_detection(info, network) if task is Task.DETECTION else DetectionSpec(),
    )
    return Found(name, spec, _pictures(dataset_file, notes), notes)


def _task(info: Mapping[str, Any]) -> Task:
    said = str(info.get("task_type") or "").strip().lower()
    if not said:
        raise InvalidInput("project_info.yaml does not say task_type; write classification or detection there")
    if said not in ("classification", "detection"):
        raise InvalidInput(f"task_type is {said!r} in project_info.yaml; there are classification and detection")
    return Task(said.upper())


def _selector(info: Mapping[str, Any], notes: list[str]) -> str:
    target = str(info.get("target_info") or "cloud")
    plain = re.sub(r"[^a-z0-9]", "", target.lower())
    if plain in _TARGETS:
        return _TARGETS[plain]
    if plain not in _ANYWHERE:
        notes.append(
            f"target_info: {target} is no known board: the selector names devices by the label tango_target={_name(target)}; give"
            " it to them, or write another selector"
        )
        return f"tango_target={_name(target)}"
    notes.append(f"target_info: {target} names no board: the selector takes every device; name yours by labels")
    return ""


def _space(info: Mapping[str, Any], task: Task, notes: list[str]) -> str:
    wanted = str(info.get("nas_type") or info.get("model") or "").lower()
    if task is Task.CLASSIFICATION:
        found = next((space for known, space in _SPACES.items() if known in wanted), "mbv3")
        notes.append(f"nas_type: {wanted or 'none'}: trained as the space {found}; {_MEASURED}")
        return found
    size = re.sub(r"[^a-z]", "", str(info.get("model_size") or "").lower())
    space = f"yolo26{_SIZES.get(size, 's')}"
    notes.append(f"nas_type: {wanted or 'none'} {size}: trained as the space {space}; {_MEASURED}")
    return space


def _resolution(network: Mapping[str, Any], task: Task, notes: list[str]) -> int:
    shape = network.get("input_tensor_shape")
    if shape is None:
        notes.append(f"no input_tensor_shape is given: pictures are {_USUAL_PX[task]} px; smaller ones are faster")
        return _USUAL_PX[task]
    if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape) or len(shape) != 4:
        raise InvalidInput(f"input_tensor_shape is {shape!r} in neural_net_info.yaml; it must be [1, 3, height, width]")
    wanted = max(int(size) for size in shape[2:])
    found = min(_MOST_PX, max(_LEAST_PX, -(-wanted // _STEP_PX) * _STEP_PX))
    if found != wanted:
        notes.append(
            f"input_tensor_shape: {wanted} px become {found} px: sizes go from {_LEAST_PX} to {_MOST_PX} by {_STEP_PX}"
        )
    return found


def _targets(info: Mapping[str, Any], network: Mapping[str, Any], notes: list[str]) -> list[str]:
    engine = str(info.get("engine") or "").strip().lower()
    found = _ENGINES.get(engine)
    if found is None:
        if engine:
            notes.append(
                f"engine: {engine} is not one that devices serve here: each type gets the fastest of its own engines"
            )
        return []
    precision = str(network.get("input_data_type") or "fp32").lower()
    known = {"onnxruntime": ("fp32", "fp16", "int8"), "tensorrt": ("fp32", "fp16", "int8"), "litert": ("fp32", "int8")}
    if precision not in known.get(found, ("fp32",)):
        notes.append(f"input_data_type: {precision} is not built for {found}: fp32 is")
        precision = "fp32"
    return [f"{found}/{precision}"]


def _limits(path: Path | None, notes: list[str]) -> list[Limits]:
    if path is None:
        return []
    said = {key: _number(path, key, value) for key, value in _mapping(path).items() if key.startswith(("min_", "max_"))}
    known = {key: value for key, value in said.items() if value is not None}
    others = sorted(known.keys() - {"min_latency", "max_model_size", "max_peak_memory"})
    notes += [f"{key}: {known[key]:g} is left out: limits are latency, size, memory and accuracy" for key in others]
    limits = Limits(
        # TANGO writes it in pictures a second.
        latency_ms=1000.0 / known["min_latency"] if known.get("min_latency") else None,
        model_bytes=round(known["max_model_size"] * 1e6) if known.get("max_model_size") else None,
        memory_bytes=round(known["max_peak_memory"] * 1e6) if known.get("max_peak_memory") else None,
    )
    return [limits] if limits != Limits() else []


def _number(path: Path, key: str, value: Any) -> float | None:
    if value is None or str(value).strip().lower() in ("none", "null", ""):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{key} is {value!r} in {path.name}; it must be a number above 0") from error
    if not 0 < found < 1e12:
        raise InvalidInput(f"{key} is {value!r} in {path.name}; it must be a number above 0")
    return found


def _detection(info: Mapping[str, Any], network: Mapping[str, Any]) -> DetectionSpec:
    usual = DetectionSpec()
    score = info.get("confidence_thresh", network.get("conf_thres", usual.score_threshold))
    overlap = info.get("iou_thresh", network.get("iou_thres", usual.iou_threshold))
    try:
        return DetectionSpec(score_threshold=float(score), iou_threshold=float(overlap))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"confidence {score!r} and overlap {overlap!r} must be between 0 and 1") from error


def _pictures(path: Path | None, notes: list[str]) -> Path | None:
    """Return the folder that holds both train and val, as TANGO's own paths say it."""
    if path is None:
        notes.append("no dataset.yaml was found: import the pictures yourself")
        return None
    said = _mapping(path)
    train = said.get("train")
    if said.get("path"):
        return _described_by(path, path.parent / str(said["path"]), notes)
    if not isinstance(train, str):
        notes.append(f"{path.name} has no single folder to train on: import the pictures yourself")
        return None
    # .../images/train beside .../labels/train, or .../train with a folder for each class.
    parts = Path(train).parts
    above = parts[: parts.index("images")] if "images" in parts else parts[:-1]
    return _described_by(path, path.parent / Path(*above) if above else path.parent, notes)


def _described_by(path: Path, pictures: Path, notes: list[str]) -> Path:
    if path.parent.resolve() == pictures.resolve():
        return pictures
    if (pictures / "data.yaml").is_file():
        notes.append(
            f"{path.name} is not read for the pictures: {pictures / 'data.yaml'} lies beside them; see that both name the same classes"
        )
    else:
        notes.append(
            f"{path.name} does not lie beside the pictures: copy it to {pictures / 'data.yaml'} before you import them"
        )
    return pictures


def _named(folder: Path, said: Any, *usual: str) -> Path | None:
    """Return the file that project_info.yaml names, which may be the folder that holds it."""
    named = [folder / str(said), *(folder / str(said) / one for one in usual)] if said else []
    return next((place for place in [*named, *(folder / one for one in usual)] if place.is_file()), None)


def _mapping(path: Path, needed: bool = True) -> Mapping[str, Any]:
    if not needed and not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(
            f"there is no {path}; name the folder of a TANGO project, with project_info.yaml in it"
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} must hold keys and values")
    return found


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "project"
