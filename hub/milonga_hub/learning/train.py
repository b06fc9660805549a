"""Train all subnets of a supernet at once: the sandwich rule with in-place distillation (Yu & Huang 2019; BigNAS 2020)."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milonga_hub.learning.checkpoint import Checkpoint, Point, Recipe, fill
from milonga_hub.learning.hardware import Team, autocast, device, is_out_of_memory, moved
from milonga_hub.learning.recipes import optimiser, settled
from milonga_hub.learning.spaces import Encoding, Space
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.supernet import Supernet, recalibrate
from milonga_hub.learning.task import Task, runner

# A gradient of four subnets is large in the first steps.
_MAX_GRADIENT_NORM = 5.0
# The weights' average remembers a tenth of the training at first, and at most 500 steps (Tarvainen & Valpola 2017).
_EMA_DECAY = 0.998
# As many steps in a row without a finite gradient are no accident; nor is such a share of an epoch.
_MOST_LOST_STEPS = 10
_MOST_LOST_SHARE = 0.4

Tell = Callable[[float, Point | None, float], None]


class TrainingDiverged(ValueError):
    """The loss or the weights are infinite or not a number; the message says what to change."""


class MemoryTooSmall(ValueError):
    """Not even the smallest piece of a batch fits into memory; the message says what to change."""


class Trainer:
    """Trains epoch by epoch and writes a checkpoint after each; a new one on the same path goes on from there.

    Under torchrun each process takes its part of each batch, and gradients are added up.
    """

    def __init__(self, task: Task, space: Space, recipe: Recipe, path: Path, base: Path | None = None) -> None:
        """`base` is a checkpoint of the same space, size and classes to start from; one network alone may start from a supernet.

        Raises ValueError where it is of others, or there are too few pictures.
        """
        if task.count < 2:
            raise ValueError(f"there are {task.count} pictures to train on; at least 2 are needed")
        self._task, self._recipe, self._path = task, (recipe := settled(recipe, task, space)), path
        self._device, self._team = device(), Team()
        torch.manual_seed(recipe.seed)
        self._random = random.Random(recipe.seed)
        self._generator = torch.Generator().manual_seed(recipe.seed)
        self._live = Supernet(space, task.classes)
        if base is not None:
            _start_from(self._live, base)
            self._recipe = replace(recipe, largest_alone_share=0.0)
        self._live.to(self._device)
        #: The weights' average, which is what subnets are taken from.
        self.supernet = copy.deepcopy(self._live)
        self._optimiser = optimiser(self._live, recipe)
        self._pieces = 1
        self._steps = self._lost = self._left_out = 0
        self.history: list[Point] = []
        if path.exists():
            self._restore()

    def _restore(self) -> None:
        checkpoint = Checkpoint.read(self._path)
        fill(self._live, checkpoint.weights, self._path)
        fill(self.supernet, checkpoint.model, self._path)
        self._optimiser.load_state_dict(checkpoint.optimiser)
        self._steps, self.history = checkpoint.steps, list(checkpoint.history)
        self._random.setstate(checkpoint.random_state)
        self._generator.set_state(checkpoint.torch_state)

    def run(self, tell: Tell = lambda *_: None) -> list[Point]:
        """Train to the end and return the curve. `tell(fraction, newest point, loss)` hears of every step.

        Raises TrainingDiverged, and MemoryTooSmall.
        """
        for epoch in range(len(self.history), self._recipe.epochs):
            if self._is_over():
                break
            loss = self._epoch(epoch, tell)
            self._finish(epoch + 1, loss)
            tell((epoch + 1) / self._recipe.epochs, self.history[-1], loss)
        return self.history

    def _epoch(self, epoch: int, tell: Tell) -> float:
        """Learn from all pictures once and return the mean loss."""
        steps = math.ceil(self._task.count / self._recipe.batch_size)
        total, step, left_out = 0.0, 0, self._left_out
        for step, (x, targets) in enumerate(self._task.batches(self._recipe.batch_size, self._generator), 1):
            done = min((epoch + (step - 1) / steps) / self._recipe.epochs, 1.0)
            total += self._step(x, targets, done)
            tell(done, self.history[-1] if self.history else None, total / step)
        lost = self._left_out - left_out
        if lost > _MOST_LOST_SHARE * step:
            raise self._diverged(f"the loss was not a finite number for {lost} of {step} steps")
        if not all(weight.isfinite().all() for weight in self._live.parameters()):
            raise self._diverged("the weights are no finite numbers any more")
        return total / step

    def _finish(self, epoch: int, loss: float) -> None:
        measured = self._measured() if self._team.leads else ()
        self.history.append(Point(epoch, loss, *self._team.agree(list(measured or (0.0, 0.0)))))
        if self._team.leads:
            self._checkpoint().write(self._path)

    def _is_over(self) -> bool:
        """Whether no epoch of the last few was better than all before them."""
        patience, means = self._recipe.patience, [one.accuracy_largest + one.accuracy_smallest for one in self.history]
        return 0 < patience < len(means) and max(means[-patience:]) <= max(means[:-patience])

    def _rate(self, done: float) -> float:
        """Return the learning rate at this share of the training: linear warm-up, then a cosine to nothing."""
        peak, warm = self._recipe.learning_rate * self._recipe.batch_size / 64.0, self._recipe.warm_up_share
        if done < warm:
            return peak * (done / warm * 0.95 + 0.05)
        return peak * 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))

    def _step(self, x: Tensor, targets: Any, done: float) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate(done)
        loss = self._gradients(x, targets, self._others() if done >= self._recipe.largest_alone_share else [])
        loss = self._team.total(loss)
        self._team.add(weight.grad for weight in self._live.parameters() if weight.grad is not None)
        norm = nn.utils.clip_grad_norm_(self._live.parameters(), _MAX_GRADIENT_NORM)
        if not torch.isfinite(norm):
            return self._lose()
        self._lost = 0
        self._optimiser.step()
        self._steps += 1
        self._average()
        return loss

    def _others(self) -> list[Encoding]:
        """Return the subnets that learn from the largest in this step: the smallest, and random ones."""
        space = self._live.space
        drawn = [space.smallest(), *(space.sample(self._random) for _ in range(self._recipe.random_subnets))]
        return [one for one in dict.fromkeys(drawn) if one != space.largest()]

    def _gradients(self, x: Tensor, targets: Any, others: list[Encoding]) -> float:
        """Leave the gradients of a batch and return its loss; in smaller pieces where memory does not suffice."""
        while True:
            self._optimiser.zero_grad(set_to_none=True)
            try:
                return sum(self._backward(x, targets, *part, others) for part in self._parts(len(x)))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # Two pictures are the fewest with batch statistics. Processes of a team must not part ways.
                if self._team.size > 1 or len(x) // (2 * self._pieces) < 2:
                    raise self._too_large(len(x)) from error
                self._pieces *= 2
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()

    def _too_large(self, count: int) -> MemoryTooSmall:
        if self._team.size > 1:
            return MemoryTooSmall(
                f"a batch of {count} pictures does not fit into memory on {self._team.size} processes; lower batch_size"
            )
        return MemoryTooSmall(
            f"a few pictures of {self._live.space.resolution_px} px do not fit into memory; lower resolution_px, take a smaller"
            " space, or train on a machine with more memory"
        )

    def _parts(self, count: int) -> list[tuple[int, int, float]]:
        """Return the ranges of a batch that this process goes through, of which none has one picture alone, and their shares.

        One that is left over takes the first range for nothing: all must have gradients of the same weights to add up.
        """
        parts = max(1, min(self._pieces * self._team.size, count // 2))
        edges = [round(count * number / parts) for number in range(parts + 1)]
        ranges = [(start, stop, (stop - start) / count) for start, stop in pairwise(edges)]
        return ranges[self._team.rank :: self._team.size] or [(*ranges[0][:2], 0.0)]

    def _backward(self, x: Tensor, targets: Any, start: int, stop: int, share: float, others: list[Encoding]) -> float:
        x, targets = self._task.part(x, targets, start, stop)
        x, targets = x.to(self._device), moved(targets, self._device)
        with autocast(self._recipe.precision, self._device):
            outputs = self._live(x, self._live.space.largest())
            loss = self._task.loss(outputs, targets) * share
        loss.backward()
        # The largest teaches the others, within the same step.
        taught = _detached(outputs)
        for encoding in others:
            with autocast(self._recipe.precision, self._device):
                learned = self._task.distilled(self._live(x, encoding), taught, targets) * share
            learned.backward()
        return float(loss.detach())

    def _lose(self) -> float:
        """Leave a step out whose gradient is not finite."""
        self._lost += 1
        self._left_out += 1
        if self._lost >= _MOST_LOST_STEPS:
            raise self._diverged(f"the loss was not a finite number for {self._lost} steps")
        return 0.0

    def _diverged(self, how: str) -> TrainingDiverged:
        rate = self._recipe.learning_rate
        return TrainingDiverged(
            f"{how}; lower the learning rate (it is {rate:g}; try {rate / 4:g}), and look for broken pictures in the data set"
        )

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(_EMA_DECAY, (1 + self._steps) / (10 + self._steps))
        # One by one, hundreds of small kernels would keep a GPU waiting.
        torch._foreach_lerp_(list(self.supernet.parameters()), list(self._live.parameters()), 1 - decay)

    def _measured(self) -> tuple[float, float]:
        space = self.supernet.space
        # One network alone is both.
        found = {one: evaluated(self.supernet, one, self._task) for one in {space.largest(), space.smallest()}}
        return found[space.largest()], found[space.smallest()]

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            recipe=self._recipe,
            space=self._live.space.settings,
            classes=self._task.classes,
            model=self.supernet.state_dict(),
            weights=self._live.state_dict(),
            optimiser=self._optimiser.state_dict(),
            steps=self._steps,
            history=self.history,
            random_state=self._random.getstate(),
            torch_state=self._generator.get_state(),
        )


def _start_from(supernet: Supernet, base: Path) -> None:
    known, space = Checkpoint.read(base), supernet.space
    if known.classes == supernet.classes and known.space == space.settings:
        fill(supernet, known.model, base)
    elif known.classes == supernet.classes and isinstance(space, Fixed) and known.space == space.family.settings:
        whole = Supernet(space.family, known.classes)
        fill(whole, known.model, base)
        inherited = whole.extract(space.encoding)
        fill(supernet, {f"shared.{name}": weight for name, weight in inherited.named_parameters()}, base)
    else:
        raise ValueError(
            f"{base} holds {_text(known.space)} for {known.classes} classes; it cannot go on as {_text(space.settings)} for"
            f" {supernet.classes}"
        )


def _text(settings: Mapping[str, Any]) -> str:
    """Return a space's settings as "yolo at 64 px, family yolo26, width 0.5"."""
    more = "".join(f", {key} {value}" for key, value in settings.items() if key not in ("name", "resolution_px"))
    return f"{settings['name']} at {settings['resolution_px']} px{more}"


def _detached(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, dict):
        return {key: _detached(value) for key, value in outputs.items()}
    return type(outputs)(_detached(one) for one in outputs) if isinstance(outputs, (list, tuple)) else outputs


def subnet(supernet: Supernet, encoding: Encoding, task: Task) -> nn.Module:
    """Return the subnet ready for use: extracted, its batch statistics estimated, in evaluation mode."""
    network = supernet.extract(encoding).to(next(supernet.parameters()).device)
    calibration = [batch.to(next(network.parameters()).device) for batch in task.calibration]
    return recalibrate(network, calibration, supernet.space.resolution(encoding))


def evaluated(supernet: Supernet, encoding: Encoding, task: Task) -> float:
    """Return how good the subnet is on the validation split, 0 to 1."""
    network = supernet.space.deployed(subnet(supernet, encoding, task))
    return task.evaluate(runner(network), supernet.space.resolution(encoding))
