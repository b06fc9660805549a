"""A real bundle of a network that recognises digits, and the pictures it is asked about."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from milonga_agent.plan import WantedFile, Wish
from milonga_compiler.build import build
from milonga_compiler.bundle import Bundle
from milonga_compiler.engines import Precision
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target
from PIL import Image

from tests.compiler.networks import MEAN, SIZE_PX, STD, Pictures, digits, write_network


@dataclass(frozen=True)
class Example:
    """A bundle on disk, and pictures (with labels) that it was not made from."""

    bundle: Bundle
    pictures: Pictures

    def png(self, index: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self.pictures.images[index].transpose(1, 2, 0)).save(buffer, format="PNG")
        return buffer.getvalue()

    def wish(self, generation: int = 1) -> Wish:
        files = tuple(WantedFile(file.path, file.digest, file.size_bytes) for file in self.bundle.files)
        return Wish(generation, self.bundle.digest, files, self.bundle.manifest["model_version"], "digits")

    def blobs(self) -> dict[str, bytes]:
        return {file.digest: (self.bundle.folder / file.path).read_bytes() for file in self.bundle.files}


def example(
    folder: Path, engine: str = "onnxruntime", version: int = 1, classes: Sequence[str] = tuple("0123456789")
) -> Example:
    """Build the network for an engine. With the names of the classes in another order it gives other answers."""
    pictures = digits()
    folder.mkdir(parents=True, exist_ok=True)
    logits = write_network(folder / "model.onnx", pictures)
    held_out = slice(pictures.train_count, pictures.train_count + 60)
    evidence = Labelled(pictures.normalised[held_out], logits[held_out], pictures.labels[held_out])
    manifest = {
        "task": "classification",
        "project": "digits",
        "model_version": f"models/digits/versions/{version}",
        "subnet": "sha256:" + "0" * 64,
        "classes": [*classes],
        "input": {
            "name": "image",
            "shape": [1, 3, SIZE_PX, SIZE_PX],
            "dtype": "float32",
            "mean": MEAN,
            "std": STD,
            "size_px": SIZE_PX,
        },
    }
    built = build(
        folder / "model.onnx", Target(engine, Precision.FP32), folder / "bundle", evidence, None, manifest, 0.5
    )
    assert built.bundle is not None, built.reason
    return Example(built.bundle, pictures)
