"""Write a bundle as TANGO's code generation leaves one for its deployers: nn_model files, neural_net_info.yaml, deployment.yaml.

The keys are those of TANGO's own guide and sample files (github.com/ML-TANGO/TANGO, docs/yaml_file_guide.md and deploy_targets/). Its
deployers were not run by the makers: `not verified`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from milonga_compiler.bundle import verify_bundle
from milonga_compiler.errors import CompilerError
from milonga_compiler.examples import example, packages

# What TANGO's deployers know: a cloud service, Kubernetes, a PC, or a board that runs what is copied to it.
TYPES = ("cloud", "k8s", "pc_server", "ondevice")
ARCHITECTURES = ("arm", "x86")
# Nobody's but the bundle's.
_PROGRAM, _LABELS = "run.py", "labelmap.yaml"
# Where TANGO lays what is to be looked at.
_PICTURE = "/data/input.png"


def export_tango(bundle: Path, folder: Path, kind: str, architecture: str = "") -> list[Path]:
    """Write the bundle and what TANGO's deployers read into a new folder; return what was written beside the bundle's own files.

    `architecture` is of the device, "arm" or "x86"; empty means what machine code in the bundle is for, else what is usual for the kind.
    Raises CompilerError where the bundle is broken, its engine has no program, the kind is unknown, or the folder has something in it.
    """
    if kind not in TYPES:
        raise CompilerError(f"TANGO has no target {kind!r}; it has {', '.join(TYPES)}")
    found = verify_bundle(bundle)
    code = _machine_code(bundle / str(found.manifest["model_file"]))
    if architecture and code and architecture != code:
        raise CompilerError(
            f"{bundle} holds machine code for {code}, not {architecture}; build it for that architecture"
        )
    program = example(bundle)
    if folder.exists() and any(folder.iterdir()):
        raise CompilerError(f"{folder} has something in it; name a new folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    for file in found.files:
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(bundle / file.path), str(place))
    manifest = found.manifest
    texts = {
        _PROGRAM: program,
        "requirements.txt": "\n".join(["numpy", "pillow", *packages(str(manifest["engine"]))]) + "\n",
        _LABELS: _yaml({"nc": len(manifest["classes"]), "names": manifest["classes"], "task": _task(manifest)}),
        "neural_net_info.yaml": _yaml(neural_net_info(manifest)),
        "deployment.yaml": _yaml(deployment(manifest, kind, architecture or code)),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def neural_net_info(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what TANGO's AutoNN says of a network."""
    said: dict[str, Any] = {
        "weight_file": manifest["model_file"],
        "nc": len(manifest["classes"]),
        "names": manifest["classes"],
        "label_info_file": _LABELS,
        "input_tensor_shape": manifest["input"]["shape"],
        "input_data_type": "fp32",  # Of the input; how weights are kept is the engine's.
        "vision_lib": "pillow",
        # As TANGO writes it: the divisor of each channel's bytes, and what is subtracted after.
        "norm": [255.0 * float(std) for std in manifest["input"]["std"]],
        "mean": [float(mean) / float(std) for mean, std in zip(manifest["input"]["mean"], manifest["input"]["std"])],
        "need_nms": False,
    }
    post = manifest.get("postprocess")
    if _task(manifest) == "detection" and post is not None:
        said.update(need_nms=True, conf_thres=post["score_threshold"], iou_thres=post["iou_threshold"])
        said["stride"] = manifest["output"]["strides"]
    return said


def deployment(manifest: Mapping[str, Any], kind: str, architecture: str = "") -> dict[str, Any]:
    """Return what TANGO's deployers go by."""
    # Of its targets on devices, the boards and the phone are ARM, and PCs are x64 (deploy_targets/ondevice/README.md).
    usual = "arm" if kind == "ondevice" else "x86"
    return {
        "build": {
            "architecture": architecture or usual,
            "accelerator": "cuda" if manifest["engine"] == "tensorrt" else "cpu",
            "os": "ubuntu",
            "components": {
                "engine": manifest["engine"],
                "libs": ["python>=3.9"],
                "custom_packages": {
                    "apt": ["python3-pip"],
                    "pypi": ["numpy", "pillow", *packages(str(manifest["engine"]))],
                },
            },
        },
        "deploy": {"type": kind, "work_dir": "/workspace", "entrypoint": ["python3", _PROGRAM, _PICTURE]},
        "optional": {"nn_file": _PROGRAM, "weight_file": manifest["model_file"], "annotation_file": _LABELS},
    }


def _machine_code(file: Path) -> str:
    """Return what processor a shared library is for, "" for any other file and any other processor."""
    with file.open("rb") as opened:
        head = opened.read(20)
    # e_machine of an ELF header (ELF specification, 4: 40 ARM, 62 x86-64, 183 AArch64), little-endian here.
    machine = int.from_bytes(head[18:20], "little") if head.startswith(b"\x7fELF") else 0
    return {3: "x86", 62: "x86", 40: "arm", 183: "arm"}.get(machine, "")


def _task(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("task", "classification")).lower()


def _yaml(content: Mapping[str, Any]) -> str:
    """Return it as YAML that needs no library to write: one key a line, JSON behind it."""
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in content.items())
