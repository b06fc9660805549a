"""Write a program that runs one bundle with numpy, Pillow and its engine alone: a start for a program of one's own.

The parts are ordinary Python files in this folder, joined: how the picture becomes an input, the engine, and what its output
means. They do what the agent does; a test holds the program's answers against the agent's.
"""

from __future__ import annotations

from pathlib import Path
from pprint import pformat
from typing import Any

from milonga_compiler.bundle import verify_bundle
from milonga_compiler.errors import CompilerError

_PARTS = Path(__file__).parent
# What pip installs for the engine.
_PACKAGES = {
    "litert": "ai-edge-litert",
    "ncnn": "ncnn",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "reference": "onnx",
    # JetPack brings tensorrt itself.
    "tensorrt": "tensorrt cuda-python",
    # These two fit each other.
    "tvm": "apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post0",
}
_HEAD = '''"""Run {model_version} with {engine} ({precision}) on a picture: python example.py PICTURE

Needs: pip install numpy pillow {package}
{verification}.
"""
'''


def needs(program: str) -> str:
    """Return the line that installs what an example program imports."""
    return next(line.partition(": ")[2] for line in program.splitlines() if line.startswith("Needs: "))


def example(bundle: Path) -> str:
    """Return the text of the program for the bundle. Raises CompilerError where the bundle is broken or has none."""
    manifest = verify_bundle(bundle).manifest
    engine, task = str(manifest["engine"]), str(manifest.get("task", "classification"))
    if engine not in _PACKAGES:
        raise CompilerError(f"there is no example for {engine}; there are for {', '.join(_PACKAGES)}")
    if steps := manifest["input"].get("preprocessing"):
        raise CompilerError(
            f"there is no example for a bundle with the pre-processing of a plug-in ({', '.join(steps)})"
        )
    if not (_PARTS / f"{task}.txt").is_file():
        raise CompilerError(f"there is no example for the task {task!r}")
    head = _HEAD.format(
        model_version=manifest["model_version"] or "a network",
        engine=engine,
        precision=manifest["precision"],
        package=_PACKAGES[engine],
        verification=f"{engine}: {manifest.get('verification', 'not verified on hardware')}",
    )
    parts = ["imports", None, "picture", engine, task, "main"]
    texts = [_settings(manifest, task) if part is None else _part(part) for part in parts]
    return "\n\n".join([head.strip(), texts[0], texts[1]]) + "\n\n\n" + "\n\n\n".join(texts[2:]) + "\n"


def packages(engine: str) -> list[str]:
    """Return what pip installs for the engine, beside numpy and Pillow."""
    return _PACKAGES[engine].split()


def _part(name: str) -> str:
    return (_PARTS / f"{name}.txt").read_text(encoding="utf-8").strip()


def _settings(manifest: dict[str, Any], task: str) -> str:
    """Return what the manifest says of the model, as constants."""
    described = manifest["input"]
    values = {
        "MODEL_FILE": manifest["model_file"],
        "CLASSES": list(manifest["classes"]),
        "SIZE_PX": described["size_px"],
        "MEAN": list(described["mean"]),
        "STD": list(described["std"]),
        "LETTERBOX": described.get("resize") == "letterbox",
    }
    if task == "detection":
        post = manifest["postprocess"]
        values["STRIDES"] = list(manifest["output"]["strides"])
        values.update({key.upper(): post[key] for key in ("score_threshold", "iou_threshold", "max_boxes")})
    return "\n".join(f"{key} = {pformat(value, width=100, compact=True)}" for key, value in values.items())
