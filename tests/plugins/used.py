"""Use the template's plug-in for what it is for, in a process that has it, and tell in JSON: python -m tests.plugins.used FOLDER"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from milonga import preprocessing
from milonga_agent.inventory import probe
from milonga_agent.limits import Limits
from milonga_agent.served import Served
from milonga_compiler.backends import backend
from milonga_compiler.engines import ENGINES
from milonga_hub import plugged
from milonga_hub.blobs import BlobStore
from milonga_hub.datasets.rules import TRAIN, VALIDATION, Sample
from milonga_hub.datasets.training_data import write_arrays
from milonga_hub.learning.checkpoint import Recipe, load_supernet
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.spaces import space
from milonga_hub.learning.train import Trainer
from milonga_hub.projects import rules
from milonga_hub.projects.models import BuildSpec, ProjectSpec, TrainingSpec
from PIL import Image

from tests.agent.bundles import Example, example
from tests.e2e import digits

_STEP = "grey_world"
# A lamp that is far from white.
_TINT = np.array([1.0, 0.7, 0.4])
_ASKED = range(700, 720)


def main(folder: Path) -> dict[str, Any]:
    made = example(folder / "packed", "packed")
    os.environ["MILONGA_ENGINE_PACKED_PYTHON"] = str(_elsewhere(folder))
    model = made.bundle.folder / made.bundle.manifest["model_file"]
    probes = [
        np.load(made.bundle.folder / made.bundle.manifest["probe"][key]) for key in ("input_file", "expected_file")
    ]
    elsewhere = backend("packed").run(model, probes[0], 1)
    return {
        "engines": list(ENGINES),
        "offered": {one.name: list(one.precisions) for one in probe(Limits(threads=1)).engines},
        "built": made.bundle.manifest["model_file"],
        "error_elsewhere": float(np.abs(elsewhere - probes[1]).max()),
        "right": _right(made, tinted=False),
        "right_in_tinted_light": _right(_with_step(made), tinted=True),
        "learned": _learned(folder),
        "accepted": _accepted(),
        # As the process does that is started to try them.
        "problems": {f"{one.group} {one.name}": plugged.problem_of(one) for one in plugged.everything()},
    }


def _elsewhere(folder: Path) -> Path:
    """Return an interpreter that does not have the plug-in."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nunset PYTHONPATH\ncd /\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def _with_step(made: Example) -> Example:
    path = made.bundle.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["input"]["preprocessing"] = [_STEP]
    path.write_text(json.dumps(manifest))
    return made


def _right(made: Example, tinted: bool) -> int:
    served = Served(made.bundle.folder, threads=1)
    served.probe()
    asked = [_png(made.pictures.images[index], _TINT if tinted else 1.0) for index in _ASKED]
    answers = served.of_pictures(asked).values["class"]
    return sum(str(made.pictures.labels[index]) == answer for index, answer in zip(_ASKED, answers, strict=True))


def _png(pixels: Any, tint: Any) -> bytes:
    packed = io.BytesIO()
    Image.fromarray((pixels.transpose(1, 2, 0) * tint).astype(np.uint8)).save(packed, format="PNG")
    return packed.getvalue()


def _learned(folder: Path) -> dict[str, Any]:
    """Train one epoch in the plug-in's space, on pictures that took its step."""
    blobs, seen = BlobStore(folder / "blobs"), digits.load(known=80, later=1, live=1).known
    samples = [
        Sample(blobs.put(one.png), str(one.label), VALIDATION if number % 4 == 0 else TRAIN, 1, f"{number}.png")
        for number, one in enumerate(seen)
    ]
    write_arrays(blobs, samples, [str(digit) for digit in range(10)], 16, folder / "data.npz", [_STEP])
    torch.set_num_threads(1)
    task = Classification(load(folder / "data.npz"))
    recipe = Recipe("plain", 16, epochs=1, batch_size=16, learning_rate=0.1, seed=0, precision="fp32")
    Trainer(task, space("plain", 16), recipe, folder / "plain.pt").run()
    again = load_supernet(folder / "plain.pt").space
    return {"space": again.name, "largest": again.describe(again.largest()), "input": task.input(16).described()}


def _accepted() -> dict[str, Any]:
    training = TrainingSpec(space="plain", preprocessing=[_STEP])
    rules.check("tinted", ProjectSpec(dataset="digits", training=training, build=BuildSpec(targets=["packed/fp32"])))
    return {"spaces": list(rules.spaces(ProjectSpec(dataset="digits").task)), "steps": preprocessing.names()}


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1])), sys.stdout)
