"""Which part of the shared weights each layer of a YOLO takes.

Modules are ultralytics' own (ultralytics.nn.modules). Each function marks the layers of one kind of module, given the
channels that come in and the channels of the widest module, and returns the channels that go out. Where a module splits
its channels and joins them again, so do the marks: a subnet takes the front of each half, not the front of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from milonga_hub.learning.sharing import Channels, Part, mark

#: (module, channels in, channels out): marks the module's layers.
Marker = Callable[[Any, Channels, Channels, float], None]


def joined(*parts: Channels) -> Channels:
    """Return the channels of a concatenation, neighbouring ranges merged so that whole weights stay views."""
    whole = Channels.joined(*parts)
    ranges: list[tuple[int, int]] = []
    for start, stop in whole.ranges:
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return Channels(tuple(ranges), whole.full)


def conv(layer: Any, into: Channels, out: Channels) -> None:
    """Mark a convolution with its normalisation (Conv, DWConv)."""
    mark(layer.conv, out, into)
    mark(layer.bn, out)


def bottleneck(layer: Any, through: Channels, expansion: float) -> None:
    """Mark two convolutions, `expansion` times as wide between them (Bottleneck)."""
    hidden = Channels.first(layer.cv1.conv.out_channels, int(through.full * expansion))
    conv(layer.cv1, through, hidden)
    conv(layer.cv2, hidden, through)


def c2f(layer: Any, into: Channels, out: Channels, expansion: float) -> None:
    """Mark C2f and what derives from it (C3k2, C2fCIB): half passes by, each block's output is kept for the end."""
    hidden = Channels.first(layer.c, int(out.full * expansion))
    conv(layer.cv1, into, joined(hidden, hidden))
    for block in layer.m:
        _inner(block, hidden)
    conv(layer.cv2, joined(*[hidden] * (2 + len(layer.m))), out)


def _inner(block: Any, through: Channels) -> None:
    kind = type(block).__name__
    if kind == "Bottleneck":
        # C2f's are as wide inside as outside, C3k2's half as wide.
        bottleneck(block, through, 1.0 if block.cv1.conv.out_channels == block.cv1.conv.in_channels else 0.5)
    elif kind == "C3k":
        c3(block, through, through, 0.5)
    elif kind == "CIB":
        _cib(block, through)
    else:  # C3k2 with attention: a bottleneck and a PSABlock.
        bottleneck(block[0], through, 0.5)
        attention(block[1], through)


def c3(layer: Any, into: Channels, out: Channels, expansion: float) -> None:
    """Mark C3: blocks in a row on one branch, nothing on the other."""
    hidden = Channels.first(layer.cv1.conv.out_channels, int(out.full * expansion))
    conv(layer.cv1, into, hidden)
    conv(layer.cv2, into, hidden)
    for block in layer.m:
        bottleneck(block, hidden, 1.0)
    conv(layer.cv3, joined(hidden, hidden), out)


def c3_ghost(layer: Any, into: Channels, out: Channels, expansion: float) -> None:
    """Mark C3Ghost: half of each ghost convolution's channels are made from the other half, so both are cut alike."""
    count, full = layer.cv1.conv.out_channels, int(out.full * expansion)
    half, quarter = (Channels.first(count // parts, full // parts) for parts in (2, 4))
    hidden = joined(half, half)
    conv(layer.cv1, into, hidden)
    conv(layer.cv2, into, Channels.first(count, full))
    for block in layer.m:
        conv(block.conv[0].cv1, hidden, quarter)
        conv(block.conv[0].cv2, quarter, quarter)
        conv(block.conv[2].cv1, joined(quarter, quarter), half)
        conv(block.conv[2].cv2, half, half)
    conv(layer.cv3, joined(hidden, Channels.first(count, full)), out)


def _cib(block: Any, through: Channels) -> None:
    wide = Channels.first(2 * through.count, 2 * through.full)
    first, grow, depthwise, shrink, last = block.cv1
    conv(first, through, through)
    conv(grow, through, wide)
    for one in (depthwise.conv, depthwise.conv1) if hasattr(depthwise, "conv1") else (depthwise,):
        conv(one, wide, wide)
    conv(shrink, wide, through)
    conv(last, through, through)


def attention(layer: Any, through: Channels) -> None:
    """Mark PSABlock: whole heads are taken, or the front of the only one.

    Raises ValueError where the subnet's heads are wider than the shared ones.
    """
    inner = layer.attn
    full_heads = max(through.full // 64, 1)
    full_head = through.full // full_heads
    if (
        inner.num_heads > full_heads
        or inner.head_dim > full_head
        or (inner.num_heads > 1 and inner.head_dim < full_head)
    ):
        raise ValueError(f"{inner.num_heads} heads of {inner.head_dim} are no part of {full_heads} of {full_head}")
    key, value = (Channels.first(inner.key_dim, full_head // 2), Channels.first(inner.head_dim, full_head))
    conv(inner.qkv, through, joined(*[key, key, value] * inner.num_heads))
    conv(inner.proj, through, through)
    conv(inner.pe, through, through)
    wide = Channels.first(2 * through.count, 2 * through.full)
    conv(layer.ffn[0], through, wide)
    conv(layer.ffn[1], wide, through)


def c2psa(layer: Any, into: Channels, out: Channels, expansion: float = 0.5) -> None:
    """Mark C2PSA: half passes by, half goes through attention blocks."""
    hidden = Channels.first(layer.c, int(out.full * expansion))
    conv(layer.cv1, into, joined(hidden, hidden))
    for block in layer.m:
        attention(block, hidden)
    conv(layer.cv2, joined(hidden, hidden), out)


def sppf(layer: Any, into: Channels, out: Channels, expansion: float = 0.5) -> None:
    """Mark SPPF: the input and its poolings, one after the other."""
    hidden = Channels.first(layer.cv1.conv.out_channels, int(into.full * expansion))
    conv(layer.cv1, into, hidden)
    conv(layer.cv2, joined(*[hidden] * (layer.n + 1)), out)


def detect(layer: Any, into: Sequence[Channels]) -> None:
    """Mark the head, whose hidden widths follow from its first input's (ultralytics.nn.modules.head.Detect)."""
    box = max(16, into[0].full // 4, layer.reg_max * 4)
    score = max(into[0].full, min(layer.nc, 100))
    for prefix in ("", "one2one_"):
        for boxes, scores, channels in zip(
            getattr(layer, f"{prefix}cv2", ()), getattr(layer, f"{prefix}cv3", ()), into, strict=False
        ):
            _branch(boxes, channels, box)
            _branch(scores, channels, score)


def _branch(branch: Any, into: Channels, full: int) -> None:
    first, second, last = branch
    hidden = Channels.first(last.in_channels, full)
    for step in (first, second):
        if isinstance(step, nn.Sequential):  # a depthwise convolution, then one of 1 by 1
            conv(step[0], into, into)
            conv(step[1], into, hidden)
        else:
            conv(step, into, hidden)
        into = hidden
    mark(last, None, hidden)


BLOCKS: dict[str, Marker] = {"C2f": c2f, "C3k2": c2f, "C2fCIB": c2f, "C3": c3, "C3Ghost": c3_ghost}


# These begin with the same split and end with the same joint.
_ALIKE = ("C2f", "C3k2", "C2fCIB")
_ENDS = ("cv1", "cv2")


def shared_parts(block: Any) -> dict[str, nn.Module]:
    """Return where `take_from` finds the weights of a block of the widest network, which loses its ends if others have them too."""
    kind = type(block).__name__
    if kind not in _ALIKE:
        return {kind: block}
    ends = nn.ModuleDict({name: getattr(block, name) for name in _ENDS})
    for name in _ENDS:
        setattr(block, name, nn.Identity())
    return {kind: block, "ends": ends}


def take_from(block: nn.Module, source: str) -> None:
    """Have a marked block take its weights from the shared ones of that name.

    A small CIB takes the 3 by 3 kernel that a large one has beside its 7 by 7 (RepVGGDW).
    """
    kind = type(block).__name__
    large = any(name.endswith("cv1.2.conv1") for name, _ in block.named_modules())
    for name, layer in block.named_modules():
        if not any(True for _ in layer.parameters(recurse=False)):
            continue
        part = getattr(layer, "part", None) or Part()
        if kind == "C2fCIB" and not large:
            name = name.replace("cv1.2.", "cv1.2.conv1.")
        place = "ends" if kind in _ALIKE and name.split(".")[0] in _ENDS else kind
        mark(layer, part.out, part.into, f"{source}.{place}.{name}")
