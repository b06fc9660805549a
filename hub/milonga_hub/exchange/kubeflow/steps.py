"""What each step of the pipeline does: the same job as a hub does in that stage of a run, on artifacts instead of a run's folder.

Each takes and gives folders and returns figures, which become an artifact's metadata. Nothing here knows the SDK.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from milonga.inputs import Input
from milonga_compiler.bundle import read_bundle

from milonga_hub.blobs import BlobStore
from milonga_hub.builds.packing import pack_bundle
from milonga_hub.builds.rules import Allowed, choose_build, decisions
from milonga_hub.datasets import layouts
from milonga_hub.datasets import rules as dataset_rules
from milonga_hub.datasets.archive import open_archive
from milonga_hub.datasets.models import TRAINING_FILES
from milonga_hub.datasets.training_data import write_arrays, write_yolo
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.exchange.kubeflow import rules
from milonga_hub.exchange.kubeflow.artifacts import RunFile, job, made, read, write
from milonga_hub.runs import orders
from milonga_hub.runs.orders import Made, Place
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.profiled import Profiled, Quality
from milonga_hub.search.rules import explain_impossible, short_digest
from milonga_hub.tasks import Task

Row = dict[str, Any]
Figures = dict[str, Any]


def _place(plan: RunPlan, data: Path | None, threads: int) -> Place:
    path = str(data / TRAINING_FILES[plan.spec.task]) if data else ""
    return Place(path, lambda kind: threads or os.cpu_count() or 1)


def _changed(plan: RunPlan, **parts: Mapping[str, Any]) -> RunPlan:
    """Return the plan with other values in parts of its spec: _changed(plan, training={"seed": 1})."""
    spec = plan.spec
    changed = {name: getattr(spec, name).model_copy(update=values) for name, values in parts.items()}
    return plan.model_copy(update={"spec": spec.model_copy(update=changed)})


def import_data(run: Path, dataset: Path, out: Path) -> Figures:
    """Read a data set's zip file, in any layout that a hub reads, and write what jobs train on."""
    about = RunFile(run)
    plan = about.plan
    with made(out) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        blobs = BlobStore(Path(scratch))
        with open_archive(dataset) as archive:
            found = layouts.read(archive, blobs, None)
        if found.task is not plan.spec.task:
            raise InvalidInput(f"the pictures are for {found.task.lower()}; the run is for {plan.spec.task.lower()}")
        merged = dataset_rules.merge([], found.labelled, 1)
        added = about.added
        samples = [replace(one, added_in=added.get(one.digest, 1)) for one in merged.samples]
        strange = sorted({box.label for one in samples for box in one.boxes} | {one.label for one in samples} - {""})
        if strange := [label for label in strange if label not in plan.classes]:
            raise InvalidInput(f"the pictures show {strange[0]!r}, which is none of the run's classes")
        path = folder / TRAINING_FILES[plan.spec.task]
        if plan.spec.task is Task.DETECTION:
            write_yolo(blobs, samples, plan.classes, path)
        else:
            write_arrays(
                blobs, samples, plan.classes, plan.spec.training.resolution_px, path, plan.spec.training.preprocessing
            )
    classes = plan.classes if plan.spec.task is Task.DETECTION else ()
    digest = dataset_rules.digest_of_version(samples, classes)
    return {
        "digest": digest,
        "is_the_runs": digest == about.about["dataset_digest"],
        "train_count": sum(one.split == dataset_rules.TRAIN for one in samples),
        "validation_count": sum(one.split == dataset_rules.VALIDATION for one in samples),
        "left_out_count": len(found.rejected) + len(merged.refused),
    }


def train(run: Path, data: Path, out: Path, threads: int, **training: Any) -> Figures:
    """Train the supernet; on from the run's own, where that did."""
    about = RunFile(run)
    with made(out) as folder:
        base = about.base(folder.parent)
        epochs = training["epochs"]
        plan = _changed(about.plan, training={**training, "retrain_epochs": epochs})
        place = _place(plan, data, threads)
        order = orders.training_on(plan, place, str(base)) if base else orders.training(plan, place)
        result = job("train", order, folder)
        write(folder, "trained.json", result)
    return {name: result[name] for name in ("accuracy_largest", "accuracy_smallest")}


def curve(supernet: Path) -> list[dict[str, float]]:
    """Return the points of the training curve."""
    found: list[dict[str, float]] = read(supernet, "trained.json")["history"]
    return found


def profile(
    run: Path, measurements: Mapping[str, Any], supernet: Path, out: Path, threads: int, **search: Any
) -> Figures:
    """Choose what to measure, as a hub does, and take what devices measured of it from the file of measurements."""
    plan, trained = _changed(RunFile(run).plan, search=search), read(supernet, "trained.json")
    place = _place(plan, None, threads)
    with made(out) as folder:
        wanted = job(
            "profile",
            orders.profiling(plan, place, trained["checkpoint"], measurements["elsewhere"]),
            folder / "profile",
        )
        measured = {item.name: measurements["types"][item.name]["subnets"] for item in plan.types}
        profiled = Profiled(measured=measured, history=measurements["elsewhere"], costs=wanted["costs"])
        order = orders.judging(plan, place, trained["checkpoint"], profiled, dict.fromkeys(measured, 0))
        judged = job("judge", order, folder / "judge")["types"]
        profiled.quality = {name: Quality.of(one["precisions"], 0) for name, one in judged.items()}
        write(folder, "profiled.json", profiled.model_dump(mode="json"))
    figures: Figures = {}
    for name, quality in profiled.quality.items():
        known = {(row["subnet"], row["precision"]) for row in measured[name]}
        figures |= {
            f"latency_error {name}": quality.held_out_relative_error,
            f"latency_trusted {name}": quality.trusted,
            f"measured {name}": len(profiled.good(name)),
            f"not_measured {name}": sum((one["subnet"], one["precision"]) not in known for one in wanted["subnets"]),
        }
    return figures


def search(
    run: Path,
    measurements: Mapping[str, Any],
    data: Path,
    supernet: Path,
    profiled: Path,
    out: Path,
    limits: Mapping[str, Mapping[str, Any]],
    threads: int,
    **search: Any,
) -> Figures:
    """Search a subnet for each device type. Raises FailedPrecondition where no type gets one."""
    plan = rules.with_limits(_changed(RunFile(run).plan, search=search), limits)
    known = Profiled.model_validate(read(profiled, "profiled.json"))
    order = orders.searching(plan, _place(plan, data, threads), read(supernet, "trained.json")["checkpoint"], known)
    with made(out) as folder:
        result = job("search", order, folder)
        types: dict[str, Row] = {}
        impossible: dict[str, str] = {}
        for item in plan.types:
            one, bounds = result["types"][item.name], item.limits.model_dump()
            by_devices = measurements["types"][item.name]
            row, ms, was_measured = rules.chosen(one["candidates"], bounds, by_devices)
            if row is None or ms is None:
                held, _ = rules.times(one["candidates"], by_devices)
                impossible[item.name] = explain_impossible(item.name, bounds, one["fastest"], held)
            types[item.name] = {
                **one,
                "chosen": row,
                "ms": ms,
                "was_measured": was_measured,
                "limits": item.limits.model_dump(exclude_none=True),
            }
        if len(impossible) == len(plan.types):
            raise FailedPrecondition(" ".join(impossible.values()))
        predictor = result["accuracy_predictor"]
        write(folder, "found.json", {"types": types, "impossible": impossible, "accuracy_predictor": predictor})
    return _told(types)


def front(found: Path) -> dict[str, Any]:
    """Return for people what the search found by device type: the front, and what was chosen."""
    types = read(found, "found.json")["types"]
    shown = ("chosen", "ms", "was_measured", "limits", "latency_model", "front")
    return {name: {key: _plain(one[key]) for key in shown} for name, one in types.items()}


def _plain(value: Any) -> Any:
    """Leave out drawings and files of this machine."""
    if isinstance(value, Mapping):
        left_out = ("drawing", "files", "onnx", "expected", "checkpoint")
        return {key: _plain(one) for key, one in value.items() if key not in left_out}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _told(types: Mapping[str, Row]) -> Figures:
    figures: Figures = {}
    for name, one in types.items():
        if one["chosen"] is not None:
            figures[f"accuracy {name}"] = one["chosen"]["accuracy"]
            figures[f"ms {name}"] = one["ms"]
            figures[f"was_measured {name}"] = one["was_measured"]
            figures[f"subnet {name}"] = one["chosen"]["subnet"]
    return figures


def finetune(run: Path, data: Path, supernet: Path, found: Path, out: Path, threads: int, **training: Any) -> Figures:
    """Train each chosen subnet on alone, for no epoch where that is not asked for, and keep the better of both weights."""
    plan = _changed(RunFile(run).plan, training=training)
    place, trained = _place(plan, data, threads), read(supernet, "trained.json")
    searched = read(found, "found.json")
    types = {name: one for name, one in searched["types"].items() if one["chosen"] is not None}
    with made(out) as folder:
        kept: dict[str, Row] = {}
        for name, one in types.items():
            row = one["chosen"]
            if plan.spec.training.finetune_epochs:
                row = _better(row, _tuned(plan, place, trained, row, folder.parent))
            kept[name] = {**one, "chosen": _brought(row, folder / name)}
        write(folder, "found.json", {**searched, "types": kept})
    return _told(kept)


def _tuned(plan: RunPlan, place: Place, trained: Row, row: Row, folder: Path) -> Row:
    """Return the subnet after a training of its own; types that chose the same one share it."""
    target, where = f"{row['engine']}/{row['precision']}", folder / short_digest(row["subnet"])
    checkpoint = job("train", orders.fine_tuning(plan, place, trained, row), where / "train")["checkpoint"]
    targets = job("assess", orders.assessing(plan, place, checkpoint, [target]), where / target.replace("/", "-"))
    found: Row = targets["targets"][target]
    return found


def _better(row: Row, tuned: Row) -> Row:
    return {**row, **tuned} if tuned["accuracy"] > row["accuracy"] else row


def _brought(row: Row, folder: Path) -> Row:
    """Return the row with copies in the folder of the files that builds are made from."""
    folder.mkdir(parents=True)
    files = {name: folder / Path(row[name]).name for name in ("onnx", "expected", "checkpoint") if row[name]}
    for name, target in files.items():
        shutil.copyfile(row[name], target)
    return {**row, **{name: str(target) for name, target in files.items()}, "files": {}}


def build(run: Path, data: Path, chosen: Path, out: Path, threads: int, **build: Any) -> Figures:
    """Build each device type's subnet for all of its targets, each held against the network that it is made of."""
    about = RunFile(run)
    plan, project = _changed(about.plan, build=build), about.about["project"]
    found = read(chosen, "found.json")["types"]
    figures: Figures = {}
    with made(out) as folder:
        builds: dict[str, list[Row]] = {}
        for item in plan.types:
            if item.name not in found:
                continue
            one = found[item.name]
            version = f"models/{project}/versions/{about.about['number']}-elsewhere"
            order = orders.building(
                plan,
                _place(plan, data, threads),
                item,
                one["chosen"],
                one["ms"] if one["was_measured"] else None,
                Made(project, version, str(folder.parent / "tuned" / (item.architecture or "hub"))),
            )
            builds[item.name] = job("build", order, folder / item.name)["builds"]
            for each in builds[item.name]:
                target = f"{item.name} {each['engine']}/{each['precision']}"
                figures |= {f"state {target}": each["state"], f"accuracy {target}": each["accuracy"]}
        write(folder, "builds.json", builds)
    return figures


def package(run: Path, measurements: Mapping[str, Any], chosen: Path, builds: Path, out: Path) -> Figures:
    """Pack what was built for each type into zip files, say which one its devices should get, and how a hub takes it."""
    about = RunFile(run)
    found, made_for = read(chosen, "found.json")["types"], read(builds, "builds.json")
    index: dict[str, Row] = {}
    with made(out) as folder:
        for name, results in made_for.items():
            one, by_devices = found[name], measurements["types"][name]
            row, limits = one["chosen"], one["limits"]
            figures = rules.build_figures(results, row["subnet"], row["precision"], one["ms"], by_devices)
            allowed = Allowed(*(limits.get(name) for name in ("latency_ms", "model_bytes", "memory_bytes")))
            best = choose_build(figures, allowed)
            said = decisions(figures, best, allowed)
            packed = {}
            for each in results:
                target = f"{each['engine']}/{each['precision']}"
                packed[target] = {
                    "state": each["state"],
                    "accuracy": each["accuracy"],
                    "decision": said[target],
                    "bundle": each["bundle"],
                    "file": _packed(each, folder, name),
                }
            shutil.copyfile(row["onnx"], folder / f"{name}.onnx")
            index[name] = {
                "subnet": row["subnet"],
                "description": row["description"],
                "accuracy": row["accuracy"],
                "ms": one["ms"],
                "ms_was_measured_on_a_device": one["was_measured"],
                "chosen": best.target if best else "",
                "builds": packed,
                "network": f"{name}.onnx",
                "import": _import_line(about, name, results),
            }
        (folder / "classes.txt").write_text("".join(f"{each}\n" for each in about.plan.classes), encoding="utf-8")
        write(folder, "index.json", index)
    return {f"chosen {name}": one["chosen"] or "none" for name, one in index.items()}


def _packed(result: Row, folder: Path, name: str) -> str:
    if not result["directory"] or result["state"] == "REJECTED":
        return ""
    target = f"{name}-{result['engine']}-{result['precision']}.zip"
    with tempfile.TemporaryDirectory() as scratch:
        # A mounted bucket may not let the program be put beside the bundle.
        shutil.copytree(result["directory"], Path(scratch) / "bundle")
        pack_bundle(Path(scratch) / "bundle", folder / target)
    return target


def _import_line(about: RunFile, name: str, results: Sequence[Row]) -> str:
    """Return what brings a classifier to a hub, which builds, measures and signs it itself; "" for what a hub takes otherwise."""
    folders = [Path(one["directory"]) for one in results if one["directory"]]
    if about.plan.spec.task is not Task.CLASSIFICATION or not folders:
        return ""
    seen = Input.of(read_bundle(folders[0]).manifest["input"])
    mean, std = (",".join(f"{value:.8g}" for value in some) for some in (seen.mean, seen.std))
    return (
        f"milonga models import {about.about['project']} {name}.onnx --classes-file classes.txt --mean {mean} --std {std}"
        f" --resize {seen.resize.value} --data {about.plan.spec.dataset}"
    )


def compare(run: Path, data: Path, builds: Path, packages: Path, out: Path) -> Figures:
    """Hold what was chosen against what devices of the type run, where they run something, on the validation pictures."""
    about = RunFile(run)
    plan, made_for, index = about.plan, read(builds, "builds.json"), read(packages, "index.json")
    compared: dict[str, Row] = {}
    with made(out) as folder:
        for name, one in index.items():
            champion = about.champion(name, folder.parent)
            challenger = _folder_of(made_for[name], one["chosen"])
            if champion is not None and challenger:
                order = orders.comparing(plan, _place(plan, data, 0), str(champion), challenger)
                compared[name] = job("compare", order, folder / name)
        write(folder, "comparisons.json", compared)
    return {f"better {name}": one["better"] for name, one in compared.items()} or {
        "compared": "nothing: no type ran one"
    }


def _folder_of(results: Sequence[Row], target: str) -> str:
    return next((str(one["directory"]) for one in results if f"{one['engine']}/{one['precision']}" == target), "")
