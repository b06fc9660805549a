"""Every engine and precision that can be used here, against what people do today: the default export in ONNX Runtime.

Both run in one process on as many CPUs as they get threads, in blocks of a few repeats and random order. Errors are of the
outputs, as a share of their range; sizes are shares of the exported file's.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from milonga_agent.inventory import ENGINES as RUNTIMES
from milonga_compiler.build import Built, State, build
from milonga_compiler.bundle import BESIDE_THE_MODEL
from milonga_compiler.engines import ENGINES
from milonga_compiler.environments import adding_line, usable
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target
from torch import nn

from benchmarks.results import Result

SIZE_PX = 64
_EPOCHS, _BATCH, _TRAINED, _CALIBRATION, _PROOF = 4, 32, 500, 64, 300
_MOST_LOST_POINTS = 1.0
_BLOCK, _SECONDS = 6, 4.0
# onnx's evaluator proves others right and is never meant to be fast.
_LEFT_OUT = ("reference",)


@dataclass(frozen=True)
class Timed:
    """Medians in ms of a build and of its peer, and the spread of the build's repeats."""

    ms: float
    peer_ms: float
    spread: float


def run() -> list[Result]:
    """Train two networks on digits, build them for every target, and time what holds."""
    torch.manual_seed(0)
    for name in ENGINES:
        if name not in _LEFT_OUT and not usable(name):
            print(f"  {name} is left out; to have it: {adding_line(name)}", file=sys.stderr)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        # Goals for the fastest build: int8 halves the time of plain convolutions at least; for squeeze-and-excite and hard swish,
        # where it gains nothing, no build is taken that is slower than the export itself.
        for title, network, goal in (("residual", Residual(), 0.5), ("mobile", Mobile(), 1.05)):
            results += _compared(title, network, goal, Path(folder) / title)
    return results


def _compared(title: str, network: nn.Module, goal: float, folder: Path) -> list[Result]:
    folder.mkdir()
    pictures, labels = _digits()
    _train(network, pictures[_PROOF : _PROOF + _TRAINED], labels[_PROOF : _PROOF + _TRAINED])
    onnx = _exported(network, folder / "network.onnx")
    with torch.no_grad():
        logits = network(pictures[:_PROOF]).numpy()
    evidence = Labelled(pictures[:_PROOF].numpy(), logits, labels[:_PROOF].numpy())
    calibration = pictures[_PROOF : _PROOF + _CALIBRATION].numpy()
    results, best = [], dict[int, Timed]()
    for target in _targets():
        place = folder / str(target).replace("/", "-")
        built = build(onnx, target, place, evidence, calibration, {}, _MOST_LOST_POINTS)
        if built.state is not State.VERIFIED or built.bundle is None:
            print(f"  {title} {target}: {built.state} {built.reason}"[:300], file=sys.stderr)
            continue
        about = _about(built, logits, onnx)
        for threads in (1, 2):
            found = _timed(built, onnx, threads)
            best[threads] = min(found, best.get(threads, found), key=lambda one: one.ms / one.peer_ms)
            claim = f"{title} {target}, {threads} thread{'s' * (threads > 1)}; {about}"
            results.append(_result(claim, found, None))
            print(f"  {claim}: {found.ms / found.peer_ms:.2f}", file=sys.stderr)
    results += [_result(f"{title}, fastest build, {t} threads", one, goal) for t, one in sorted(best.items())]
    return results


def _targets() -> Iterator[Target]:
    for name, engine in ENGINES.items():
        if name not in _LEFT_OUT and usable(name):
            yield from (Target(name, precision) for precision in engine.precisions)


def _about(built: Built, logits: np.ndarray, onnx: Path) -> str:
    assert built.bundle is not None and built.report is not None
    error = built.report.max_abs_error / float(logits.max() - logits.min())
    size = sum(file.size_bytes for file in built.bundle.files if file.path not in BESIDE_THE_MODEL)
    lost = built.report.lost_points
    return f"error {error:.1e}, {lost:+.1f} points lost, size {size / onnx.stat().st_size:.2f}"


def _result(claim: str, found: Timed, goal: float | None) -> Result:
    return Result(claim, found.ms, "ms", "default export, ONNX Runtime", found.peer_ms, goal, found.spread)


def _timed(built: Built, onnx: Path, threads: int) -> Timed:
    """Time in a process of its own: engines keep threads and settings until they end."""
    assert built.bundle is not None and built.target.engine in RUNTIMES
    model = built.bundle.folder / built.bundle.manifest["model_file"]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_interleaved, built.target.engine, model, onnx, threads).result()


def _interleaved(engine: str, model: Path, onnx: Path, threads: int) -> Timed:
    from milonga_agent.profile import pinned
    from milonga_agent.runtimes import load

    with pinned(threads):
        import onnxruntime

        # All defaults but the threads: it would make as many as the machine has cores, and they spin on those it has.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(onnx), options)
        runtime = load(engine, model, threads)
        picture = np.random.default_rng(0).normal(size=(1, 3, SIZE_PX, SIZE_PX)).astype(np.float32)
        given = {session.get_inputs()[0].name: picture}
        own, peer = _blocks([lambda: runtime.run(picture), lambda: session.run(None, given)])
        low, high = np.quantile(own, [0.25, 0.75])
        return Timed(median(own), median(peer), float((high - low) / median(own)))


def _blocks(runs: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Return times in ms, of blocks in random order; the first run of a block pays for what the other left behind."""
    times: list[list[float]] = [[] for _ in runs]
    source, end = random.Random(0), time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(times[0]) < 2 * _BLOCK:
        for index in source.sample(range(len(runs)), len(runs)):
            for repeat in range(_BLOCK):
                began = time.perf_counter()
                runs[index]()
                if repeat:
                    times[index].append((time.perf_counter() - began) * 1e3)
    return times


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return all 1,797 digits of scikit-learn in a fixed random order, upscaled to (n, 3, 64, 64), and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    small = torch.tensor(found.images[order] / 8.0 - 1.0, dtype=torch.float32)[:, None]
    large = nn.functional.interpolate(small, size=(SIZE_PX, SIZE_PX), mode="bilinear")
    return large.expand(-1, 3, -1, -1).contiguous(), torch.tensor(found.target[order])


def _train(network: nn.Module, pictures: torch.Tensor, labels: torch.Tensor) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    network.train()
    for _ in range(_EPOCHS):
        for index in torch.randperm(len(pictures)).split(_BATCH):
            loss = nn.functional.cross_entropy(network(pictures[index]), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.eval()


def _exported(network: nn.Module, path: Path) -> Path:
    """Export as people do, with normalisation unfolded; ONNX Runtime folds it while it loads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(2, 3, SIZE_PX, SIZE_PX),), str(path), dynamo=False, opset_version=17,
            input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )  # fmt: skip
    return path


def _conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outside)]


class _Basic(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        first, second = _conv(inside, outside, 3, stride), _conv(outside, outside, 3)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        self.short = nn.Sequential(*_conv(inside, outside, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.short(x))


class Residual(nn.Sequential):
    """Basic blocks as in ResNet-18 (He et al. 2015), half as wide."""

    def __init__(self) -> None:
        widths = (32, 64, 128, 256)
        blocks = [_Basic(a, b, 2) for a, b in zip((32, *widths), widths, strict=False)]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))
        super().__init__(*_conv(3, 32, 3), nn.ReLU(), *blocks, *head)


class _Inverted(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        wide = inside * 4
        self.expand = nn.Sequential(*_conv(inside, wide, 1), nn.Hardswish())
        self.depth = nn.Sequential(*_conv(wide, wide, 5, stride, wide), nn.Hardswish())
        squeeze = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, wide // 4, 1), nn.ReLU(), nn.Conv2d(wide // 4, wide, 1))
        self.gate = nn.Sequential(*squeeze, nn.Hardsigmoid())
        self.project = nn.Sequential(*_conv(wide, outside, 1))
        self.residual = stride == 1 and inside == outside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.depth(self.expand(x))
        projected: torch.Tensor = self.project(wide * self.gate(wide))
        return x + projected if self.residual else projected


class Mobile(nn.Sequential):
    """Inverted residuals with squeeze-and-excite and hard swish, as in MobileNetV3 (Howard et al. 2019)."""

    def __init__(self) -> None:
        plan = ((16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 80, 2), (80, 80, 1))
        blocks = [_Inverted(*each) for each in plan]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(80, 10))
        super().__init__(*_conv(3, 16, 3, 2), nn.Hardswish(), *blocks, *head)
