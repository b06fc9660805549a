"""YOLO detectors whose stages have elastic width, depth, kernel and kind of operation, made of ultralytics' own modules.

Each searchable block holds one of several operations at a time (hybrid operations), drawn one by one rather than mixed
(single-path sampling, Guo et al. 2020, "Single Path One-Shot Neural Architecture Search"). Each has weights of its own
inside; those that begin and end with the same convolutions share these, which so learn in every step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from milonga_hub.learning.costs import Cost
from milonga_hub.learning.spaces.base import RESOLUTION, Choice, Dimension, Encoding, Space, resolutions, rounded

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

FAMILIES = ("yolov8", "yolo11", "yolo26")
# What ultralytics calls sizes, as shares of a family's full width.
_SIZES = {"n": 0.25, "s": 0.5, "m": 1.0}
#: Family and width by the name of the space.
NAMED: dict[str, tuple[str, float]] = {
    "yolo": ("yolo26", 0.5),
    **{f"{family}{size}": (family, width) for family in FAMILIES for size, width in _SIZES.items()},
}
_WIDTHS = (0.5, 0.75, 1.0)
_KERNELS = (3, 7)
# From the cheapest to the dearest. YOLOv8's head differs from its successors', and C3k2 would bring theirs.
_OPERATIONS = {
    "yolov8": ("C3Ghost", "C3", "C2f"),
    "yolo11": ("C3Ghost", "C2fCIB", "C3k2", "C2f"),
    "yolo26": ("C3Ghost", "C2fCIB", "C3k2", "C2f"),
}
_BLOCKS = ("C2f", "C3k2")


@dataclass(frozen=True)
class Row:
    """One row of a family's description: its stage, its output channels at the largest, and what may be chosen."""

    index: int
    source: int | tuple[int, ...]
    module: str
    arguments: tuple[Any, ...]
    stage: str
    full: int | None
    multiple: int
    depths: tuple[int, ...]
    operations: tuple[str, ...]

    @property
    def block(self) -> bool:
        return self.module in _BLOCKS

    @property
    def depth_name(self) -> str:
        return f"{self.stage}.{'depth' if self.block else 'attention_depth'}"

    def depth(self, values: Mapping[str, Choice]) -> int:
        """Return how often the block repeats what is inside it."""
        return int(values.get(self.depth_name, self.depths[-1])) if len(self.depths) > 1 else self.depths[0]

    @property
    def expansion(self) -> float:
        """Return the ratio of channels inside the block to those outside."""
        return float(self.arguments[2]) if self.module == "C3k2" and len(self.arguments) > 2 else 0.5

    def width(self, ratio: float) -> int | None:
        return None if self.full is None else min(self.full, rounded(self.full * ratio, self.multiple))


class Yolo(Space):
    """Detectors of one ultralytics family; networks are ordinary `ultralytics.nn.tasks.DetectionModel`s.

    The largest has the family's full depth and `width` times its full width: 0.5 is the width of its "s" networks, so
    that its "n" lies within. Resolutions are multiples of 32, the largest stride.
    """

    name: ClassVar[str] = "yolo"
    task: ClassVar[str] = "detection"
    output: ClassVar[str] = "maps"

    def __init__(self, resolution_px: int, family: str = "yolo26", width: float = 0.5) -> None:
        """Raises ValueError for an unknown family or pictures that are no multiple of 32 pixels."""
        if family not in FAMILIES:
            raise ValueError(f"{family!r} is no family of detectors; choose one of {', '.join(FAMILIES)}")
        if resolution_px < 32 or resolution_px % 32:
            raise ValueError(f"detectors need pictures of a multiple of 32 pixels, not {resolution_px}")
        super().__init__(resolution_px)
        self.family, self.width = family, width
        self._cost = lru_cache(maxsize=4096)(self._count)

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "family": self.family, "width": self.width}

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Return the family's description, read from the ultralytics package."""
        from milonga_hub.learning.spaces.yolo_network import family

        return tuple(_rows(family(self.family), self.width, _OPERATIONS[self.family]))

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        found = [Dimension(RESOLUTION, resolutions(self.resolution_px, 32))]
        for stage in dict.fromkeys(row.stage for row in self.rows if row.full):
            rows = [row for row in self.rows if row.stage == stage]
            # Ratios that round to the same channels are one choice.
            ratios = {tuple(row.width(ratio) for row in rows): ratio for ratio in reversed(_WIDTHS)}
            found.append(Dimension(f"{stage}.width", tuple(sorted(ratios.values()))))
            for row in rows:
                if len(row.depths) > 1:
                    found.append(Dimension(row.depth_name, row.depths))
                if len(row.operations) > 1:
                    found.append(Dimension(f"{stage}.operation", row.operations))
                if "C2fCIB" in row.operations:
                    found.append(Dimension(f"{stage}.kernel", _KERNELS))
        return tuple(one for one in found if len(one.choices) > 1 or one.name == RESOLUTION)

    def unused(self, values: Mapping[str, Choice]) -> Iterable[str]:
        """Yield the kernels of blocks whose operation has no kernel to choose."""
        for name, operation in values.items():
            if name.endswith(".operation") and operation != "C2fCIB" and "C2fCIB" in self._operations(name):
                yield name.replace(".operation", ".kernel")

    def _operations(self, name: str) -> tuple[Choice, ...]:
        return next(one.choices for one in self.dimensions if one.name == name)

    def description(self, encoding: Sequence[int], classes: int) -> dict[str, Any]:
        """Return the subnet as ultralytics describes networks (`model.yaml`), from which it can be built without us."""
        from milonga_hub.learning.spaces.yolo_network import family

        values = self.values(self.canonical(encoding))
        own, whole = [_described(row, values) for row in self.rows], family(self.family)
        backbone = len(whole["backbone"])
        kept: dict[str, Any] = {key: whole[key] for key in ("end2end", "reg_max") if key in whole}
        return {
            "nc": classes,
            **kept,
            "backbone": own[:backbone],
            "head": own[backbone:],
            "yaml_file": f"{self.family}.yaml",
            "resolution_px": self.resolution(encoding),
        }

    def network(self, encoding: Sequence[int], classes: int) -> DetectionModel:
        """Return the subnet with fresh weights on the default device.

        In training it makes {"boxes" (n, 4 bins, anchors), "scores" (n, classes, anchors), "feats"} of pictures
        (n, 3, H, W), or for yolo26 two of them, "one2many" and "one2one"; else what ultralytics' validator takes.
        """
        from milonga_hub.learning.spaces.yolo_network import build, marked
        from milonga_hub.learning.spaces.yolo_parts import take_from

        network = build(self.description(encoding, classes))
        marked(network, [row.full for row in self.rows], [row.expansion for row in self.rows])
        for row, layer in zip(self.rows, network.model, strict=True):
            if len(row.operations) > 1:
                take_from(layer, f"operations.{row.index}")
        return network

    def deployed(self, network: nn.Module) -> nn.Module:
        """Return the network without the decoding of its boxes, which devices do: see milonga.detections."""
        from milonga_hub.learning.spaces.yolo_network import Deployed

        return Deployed(network)

    def publish(self, network: nn.Module, class_names: Sequence[str], path: Path) -> bool:
        """Write an ordinary ultralytics checkpoint: `ultralytics.YOLO(path)` loads it without this project."""
        from milonga_hub.learning.spaces.yolo_network import write_checkpoint

        write_checkpoint(network, class_names, path)
        return True

    def shared(self, classes: int) -> nn.Module:
        """Return what holds the weights of all subnets: the largest, its blocks in all operations. It cannot be run."""
        from milonga_hub.learning.spaces.yolo_parts import shared_parts

        found = nn.Module()
        found.model = self.network(self.largest(), classes).model
        searched = [row for row in self.rows if len(row.operations) > 1]
        found.operations = nn.ModuleDict({str(row.index): nn.ModuleDict() for row in searched})
        for operation in dict.fromkeys(one for row in searched for one in row.operations):
            values = {f"{row.stage}.operation": operation for row in searched}
            layers = self.network(self.encoded(values), classes).model
            for row in searched:
                found.operations[str(row.index)].update(shared_parts(layers[row.index]))
        for row in searched:
            found.model[row.index] = nn.Identity()
        return found

    def cost(self, encoding: Sequence[int], classes: int) -> Cost:
        """Return the cost of what is exported: merged kernels, and of two heads the one in use."""
        return self._cost(self.canonical(encoding), classes)

    def _count(self, encoding: Encoding, classes: int) -> Cost:
        from milonga_hub.learning.spaces.yolo_costs import deployed_cost

        return deployed_cost(self.description(encoding, classes), self.resolution(encoding))

    def describe(self, encoding: Sequence[int]) -> str:
        """Return for instance "yolo26 at 96 px: stem 16; p2 32 C3k2 x1; p3 48 C2fCIB-7 x2; ..."."""
        values = self.values(self.canonical(encoding))
        stages = []
        for row in self.rows:
            width = row.width(float(values.get(f"{row.stage}.width", 1.0)))
            if row.block or row.stage == "stem":
                stages.append(f"{row.stage} {width}{_operation_text(row, values) if row.block else ''}")
        return f"{self.family} at {self.resolution(encoding)} px: {'; '.join(stages)}"

    def digest(self, encoding: Sequence[int]) -> str:
        """Return the name of a subnet: the same choices of the same family, size and width."""
        text = f"{super().digest(encoding)} {self.family} {self.width}"
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _rows(whole: Mapping[str, Any], width: float, operations: tuple[str, ...]) -> Iterator[Row]:
    """Yield the rows of a description with their stages: a strided convolution of the backbone begins a stage."""
    stage, strided, blocks = "stem", 0, 0
    backbone = len(whole["backbone"])
    attentive = {"p5"} if any(row[2] == "C2PSA" for row in whole["backbone"]) else set()
    for index, (source, repeats, module, arguments) in enumerate(whole["backbone"] + whole["head"]):
        if index < backbone and module == "Conv":
            strided += 1
            stage = "stem" if strided == 1 else f"p{strided}"
        if index >= backbone:
            stage = f"neck{blocks + 1}"
        in_block = module in _BLOCKS
        attends = stage in attentive or (in_block and len(arguments) > 3 and bool(arguments[3]))
        base = min(arguments[0], 1024) * width if module in (*_BLOCKS, "Conv", "SPPF", "C2PSA") else None
        multiple = 8 if base is None else _multiple(base, in_block, attends)
        most = repeats if in_block or module == "C2PSA" else 1
        yield Row(
            index=index,
            source=source if isinstance(source, int) else tuple(source),
            module=module,
            arguments=tuple(arguments),
            stage=stage,
            full=None if base is None else rounded(base, multiple),
            multiple=multiple,
            depths=tuple(sorted({max(1, round(most * share)) for share in (1 / 3, 2 / 3, 1)})),
            # The first block stays: it makes ultralytics give the newer families their own head.
            operations=() if not in_block else (module,) if stage == "p2" else operations,
        )
        if in_block and index >= backbone:
            blocks += 1


def _multiple(base: float, in_block: bool, attends: bool) -> int:
    """Return what the channels of a row are a multiple of.

    Blocks: 16, so that a quarter of them splits in two. With attention: 128, so that half of them are whole heads of 64,
    or any number while half of them are a single head.
    """
    if attends:
        return 128 if base >= 256 else 16
    return 16 if in_block else 8


def _described(row: Row, values: Mapping[str, Choice]) -> list[Any]:
    """Return the row with these choices, as it stands in a description."""
    width = row.width(float(values.get(f"{row.stage}.width", 1.0)))
    depth = row.depth(values)
    source: Any = row.source if isinstance(row.source, int) else list(row.source)
    if width is None:
        # Upsampling and concatenation say the same in all families; the head names its classes "nc".
        return [source, 1, row.module, list(row.arguments)]
    if not row.block:
        return [source, depth, row.module, [width, *row.arguments[1:]]]
    operation = str(values.get(f"{row.stage}.operation", row.operations[-1]))
    if operation == row.module:
        return [source, depth, operation, [width, *row.arguments[1:]]]
    shortcut = True if row.module == "C3k2" else bool(row.arguments[1:2] and row.arguments[1])
    extra: list[Any] = [shortcut]
    if operation == "C2fCIB":
        extra.append(values[f"{row.stage}.kernel"] == 7)
    return [source, depth, operation, [width, *extra, 1, row.expansion]]


def _operation_text(row: Row, values: Mapping[str, Choice]) -> str:
    operation = str(values.get(f"{row.stage}.operation", row.operations[-1]))
    kernel = f"-{values[f'{row.stage}.kernel']}" if operation == "C2fCIB" else ""
    return f" {operation}{kernel} x{row.depth(values)}"
