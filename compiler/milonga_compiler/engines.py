"""What is known of every engine without importing any: one entry for each file in backends/, and those of plug-ins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from milonga_compiler.plugins import Found, found

# Entry points of this group name an Engine.
GROUP = "milonga.backends"


class Precision(str, Enum):
    """The numbers that a build computes in; int8 is calibrated on pictures."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    def __str__(self) -> str:
        return self.value


class BuildSite(str, Enum):
    """Where an engine's builds are made: on the hub for all devices of a type, or on each device for itself."""

    HUB = "hub"
    DEVICE = "device"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Engine:
    """What an engine offers and needs.

    `modules` must be importable to build and to run ("a|b": either); the extra of the engine's name in pyproject.toml brings them.
    `takes_onnx` says that an fp32 build is the ONNX file itself.
    `embeds` says that its builds can have a second output, and that devices read it: embedding.py.
    `tuned` says that its kernels are written for each network, and gain by tuning.
    `own_environment` says that they do not get on with the other engines' packages or are very large;
    `without_dependencies` are those that bring far more than is used. `requirement` is what a device must have
    installed, as a version specifier, and `architectures` what it may be, as `uname -m` says. `backend` names the
    Backend of a plug-in's engine as "module:Class"; it is imported only in the process that the engine runs in.
    """

    precisions: tuple[Precision, ...]
    modules: tuple[str, ...]
    requirement: str
    verification: str
    architectures: tuple[str, ...] = ("x86_64", "aarch64")
    build_site: BuildSite = BuildSite.HUB
    takes_onnx: bool = False
    embeds: bool = False
    tuned: bool = False
    own_environment: bool = False
    without_dependencies: tuple[str, ...] = ()
    backend: str = ""


_X86_ONLY = "verified on x86-64; not verified on hardware elsewhere"

_OWN: dict[str, Engine] = {
    "litert": Engine(
        precisions=(Precision.FP32, Precision.INT8),
        modules=("ai_edge_litert", "ai_edge_quantizer", "litert_torch", "pnnx", "torch"),
        requirement=">=1.2",
        verification=_X86_ONLY,
        embeds=True,
        own_environment=True,  # Two gigabytes, with torch.
        without_dependencies=("pnnx",),
    ),
    "ncnn": Engine(
        precisions=(Precision.FP32, Precision.FP16),
        modules=("ncnn", "pnnx"),
        requirement=">=1.0.20240410",
        verification=_X86_ONLY,
        embeds=True,
        own_environment=True,
        without_dependencies=("pnnx",),
    ),
    "onnxruntime": Engine(
        precisions=(Precision.FP32, Precision.FP16, Precision.INT8),
        modules=("onnxruntime", "sympy"),
        requirement=">=1.17",  # Opset 17 and per-channel QDQ.
        verification=_X86_ONLY,
        takes_onnx=True,
        embeds=True,
    ),
    "openvino": Engine(
        precisions=(Precision.FP32, Precision.FP16, Precision.INT8),
        modules=("openvino", "nncf"),
        requirement=">=2024.6",
        verification=_X86_ONLY,
        embeds=True,
    ),
    "reference": Engine(
        precisions=(Precision.FP32,),
        modules=("onnx",),
        requirement=">=1.16",
        verification="verified",
        takes_onnx=True,
        embeds=True,
    ),
    "tensorrt": Engine(
        precisions=(Precision.FP32, Precision.FP16, Precision.INT8),
        modules=("tensorrt|tensorrt_rtx", "onnxruntime", "sympy"),
        requirement=">=10.0",  # Strongly typed networks.
        verification="not verified on hardware; parser and builder tested with TensorRT-RTX",
        build_site=BuildSite.DEVICE,
    ),
    "tvm": Engine(
        precisions=(Precision.FP32,),
        modules=("tvm", "tvm_ffi", "onnxslim"),
        requirement=">=0.27",
        verification="verified on x86-64, on aarch64 under emulation; not verified on hardware elsewhere",
        embeds=True,
        tuned=True,
        own_environment=True,  # Half a gigabyte.
    ),
}


def own() -> tuple[str, ...]:
    """Return the names of the engines that need no plug-in."""
    return tuple(_OWN)


@lru_cache(maxsize=1)
def plugged() -> Found[Engine]:
    """Return the engines that plug-ins bring, and what is wrong with those that bring none."""
    return found(GROUP, Engine, tuple(_OWN))


class _Engines(Mapping[str, Engine]):
    """Engines by name, Milonga's own first. Plug-ins are looked for when it is first asked what there is."""

    def __init__(self) -> None:
        self._plugged: Mapping[str, Engine] | None = None

    def only(self, plugged: Mapping[str, Engine]) -> None:
        """Have these of plug-ins and no others: the process of one engine needs none but it."""
        self._plugged = plugged

    def __getitem__(self, name: str) -> Engine:
        return _OWN[name] if name in _OWN else self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*_OWN, *self._others])

    def __len__(self) -> int:
        return len(_OWN) + len(self._others)

    @property
    def _others(self) -> Mapping[str, Engine]:
        return plugged().values if self._plugged is None else self._plugged


ENGINES = _Engines()
