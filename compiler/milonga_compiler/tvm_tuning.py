"""Tune a network's kernels by TVM's MetaSchedule for this processor or a device's, a few schedules of one kernel at a time.

The search writes many schedules of a kernel, lets a model that learns from what was measured pick the promising ones, and
measures those in processes of their own, or has the device measure them (Shao et al. 2022, "Tensor Program Optimization with Probabilistic Programs").
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from milonga_compiler.errors import BuildFailed, DeviceGone, EngineMissing, TuningRefused
from milonga_compiler.network import Network
from milonga_compiler.target import Target
from milonga_compiler.timing import MOST_SECONDS_EACH, Library
from milonga_compiler.tuned_kernels import (
    RECORDS,
    WORKLOADS,
    check_target,
    held,
    keep_kernels,
    keep_target,
    mend,
    read_kernels,
)
from milonga_compiler.tuning import Kernel, Step, Tuning, next_kernel
from milonga_compiler.tvm_device import Device, arguments_of
from milonga_compiler.tvm_network import c_compiler, imported, llvm

# What MetaSchedule imports and TVM does not ask for, by the names of pip.
_TUNERS = {"xgboost": "xgboost-cpu", "cloudpickle": "cloudpickle", "tornado": "tornado", "psutil": "psutil"}
# Kernels are the same where only the weights in them differ: subnets of one supernet share them.
_EQUALITY = "ignore-tensor"
# On a busy core the compiler takes seconds to start, and some schedules unroll into very long functions.
_BUILD_SECONDS, _RUN_SECONDS = 120.0, 60.0
# A quarter of TVM's own population and half of its generations: with few schedules measured, the model that they would be
# bred by knows too little to be worth the time.
_POPULATION, _GENERATIONS = 128, 2
_REPEAT_MS = 30
# Untuned kernels that a device is sent at once.
_SENT_TOGETHER = 16


@dataclass
class _Task:
    kernel: Kernel
    module: Any


def tune(network: Network, target: Target, tuning: Tuning) -> Iterator[Step]:
    """Yield how far it is; see Backend.tune."""
    architecture = target.architecture or platform.machine()
    if tuning.timer is None and architecture != platform.machine():
        raise TuningRefused(
            f"tuning for {architecture} needs a device of that kind; run milonga-compiler tune there, or"
            " have the hub tune on a device of the type: milonga build start ... --tune 10m --tune-on TYPE"
        )
    lacking = [name for module, name in _TUNERS.items() if importlib.util.find_spec(module) is None]
    if lacking:
        raise EngineMissing(f"tuning needs more packages; run: {sys.executable} -m pip install {' '.join(lacking)}")
    described = llvm(architecture, local=not target.architecture)
    with held(tuning.database):
        check_target(tuning.database, described)
        keep_target(tuning.database, described)
        mend(tuning.database)
        yield from _turns(network, described, tuning)


def _turns(network: Network, described: Mapping[str, str], tuning: Tuning) -> Iterator[Step]:
    os.environ["TVM_NUM_THREADS"] = str(tuning.threads)  # Read once, here and in the processes that measure.
    began = time.monotonic()
    import tvm

    target = tvm.target.Target({**described, "num-cores": tuning.threads})
    tuner = _Tuner(target, described["mtriple"].partition("-")[0], tuning)
    tasks = {one.kernel.key: one for one in tuner.tasks(network)}
    found, in_turns, step = sum(one.kernel.tuned for one in tasks.values()), 0.0, None

    def spent() -> float:
        return time.monotonic() - began - tuner.waited_seconds

    def now(turn: Kernel | None = None, ended: str = "") -> Step:
        kernels = tuple(one.kernel for one in tasks.values())
        return Step(kernels, found, spent(), tuner.trials, tuner.failed, turn, ended, tuner.device_name)

    yield (step := now())
    while True:
        kernel = next_kernel(step.kernels)
        if kernel is None:
            yield now(ended="nothing is left to gain")
            return
        each = in_turns / tuner.trials if tuner.trials else None
        count = tuning.budget.trials_that_fit(spent(), tuner.trials, each)
        if not count:
            yield now(ended="the budget is spent")
            return
        turn_began = spent()
        try:
            tasks[kernel.key].kernel = tuner.turn(tasks[kernel.key], count)
        except DeviceGone as gone:
            yield now(ended=str(gone))
            return
        in_turns += spent() - turn_began
        step = now(kernel)
        keep_kernels(tuning.database, step.kernels)
        yield step


class _Tuner:
    """MetaSchedule with one database and one model for all kernels; `trials` and `failed` count what was measured."""

    def __init__(self, target: Any, architecture: str, tuning: Tuning) -> None:
        import cloudpickle
        from tvm.s_tir import meta_schedule

        # The processes that build have no package of this name: the functions go to them whole.
        for name in (__name__, Device.__module__):
            cloudpickle.register_pickle_by_value(sys.modules[name])
        _own_instructions_only(architecture)
        logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.WARNING)
        self.trials = self.failed = 0
        self._ms, self._target, self._tuning = meta_schedule, target, tuning
        self._device = Device(tuning.timer, c_compiler(architecture)) if tuning.timer else None
        self._database = meta_schedule.database.JSONDatabase(work_dir=str(tuning.database), module_equality=_EQUALITY)
        workers = len(os.sched_getaffinity(0))
        self._builder = meta_schedule.builder.LocalBuilder(
            max_workers=workers,
            timeout_sec=_BUILD_SECONDS,
            f_export=self._device.export if self._device else None,
            initializer=partial(_own_instructions_only, architecture),
        )
        self._once = meta_schedule.runner.EvaluatorConfig(number=1, repeat=1, min_repeat_ms=_REPEAT_MS)
        here = partial(meta_schedule.runner.LocalRunner, timeout_sec=_RUN_SECONDS, evaluator_config=self._once)
        self._runner = self._device.runner() if self._device else here()
        self._model = meta_schedule.CostModel.create("xgb", num_tuning_cores=workers, tree_method="auto")

    def tasks(self, network: Network) -> list[_Task]:
        """Return the network's kernels with what is known of each; those that are new are timed as they are."""
        known, tasks = read_kernels(self._tuning.database), []
        kernels = list(_kernels(imported(network), self._target))
        if not kernels:
            raise TuningRefused("the network has no kernels that can be tuned")
        untuned = self._untuned([(name, module) for key, name, _, module in kernels if key not in known])
        for key, name, count, module in kernels:
            kept = known.get(key) or {"untuned_ms": next(untuned)}
            kernel = Kernel(key=key, count=count, best_ms=self._best_ms(module), **{"name": name, **kept})
            tasks.append(_Task(kernel, module))
        keep_kernels(self._tuning.database, tuple(one.kernel for one in tasks))
        return tasks

    def turn(self, task: _Task, count: int) -> Kernel:
        """Return the kernel after so many schedules of it were tried, or fewer where it has no more."""
        ms, before, device = self._ms, self.trials, self._device
        context = ms.TuneContext(
            mod=task.module,
            target=self._target,
            space_generator="post-order-apply",
            search_strategy=ms.search_strategy.EvolutionarySearch(
                population_size=_POPULATION, genetic_num_iters=_GENERATIONS
            ),
            task_name=task.kernel.name,
            logger=logging.getLogger("tvm.s_tir.meta_schedule"),
            rand_state=task.kernel.turns + 1,
            num_threads=len(os.sched_getaffinity(0)),
        ).clone()
        try:
            ms.tune.tune_tasks(
                tasks=[context],
                task_weights=[1.0],
                work_dir=str(self._tuning.database),
                max_trials_global=count,
                num_trials_per_iter=count,
                builder=self._builder,
                runner=self._runner,
                database=self._database,
                cost_model=self._model,
                measure_callbacks=[*ms.MeasureCallback.create("default"), self._counting()],
                module_equality=_EQUALITY,
            )
        except Exception as error:
            if device is not None and device.gone is not None:
                raise device.gone from error
            raise
        return task.kernel.after_turn(self._best_ms(task.module), self.trials - before)

    @property
    def waited_seconds(self) -> float:
        """Return how long no device was there."""
        return self._device.waited_seconds if self._device else 0.0

    @property
    def device_name(self) -> str:
        return self._device.name if self._device else ""

    def _counting(self) -> Any:
        from tvm.ir.utils import derived_object
        from tvm.s_tir.meta_schedule.measure_callback import PyMeasureCallback

        tuner = self

        @derived_object
        class Counting(PyMeasureCallback):  # type: ignore[misc]
            def apply(self, scheduler: Any, task: int, candidates: Any, built: Any, ran: Any) -> None:
                errors = [one.error_msg for one in (*built, *ran) if one.error_msg is not None]
                tuner.trials += len(candidates)
                tuner.failed += len(errors)
                if errors:
                    print(f"{len(errors)} schedules did not build or run; the first: {errors[0]}", file=sys.stderr)

        return Counting()

    def _best_ms(self, module: Any) -> float | None:
        record = self._database.query_tuning_record(module, self._target, "main")
        return _ms(record) if record is not None else None

    def _untuned(self, kernels: list[tuple[str, Any]]) -> Iterator[float]:
        """Yield what kernels take as the compiler leaves them, which is how untuned builds have them."""
        if self._device is None:
            yield from (self._untuned_ms(name, module) for name, module in kernels)
            return
        for begin in range(0, len(kernels), _SENT_TOGETHER):
            sent = kernels[begin : begin + _SENT_TOGETHER]
            times = self._device.time([self._untuned_library(self._device, name, module) for name, module in sent])
            # One that the device ended was at least as slow; one that crashed there must not be what a build takes.
            yield from (1e3 * MOST_SECONDS_EACH if ms is None else ms for ms in times.ms)

    def _untuned_library(self, device: Device, name: str, module: Any) -> Library:
        from tvm.s_tir.meta_schedule.arg_info import ArgInfo

        with _building(name):
            arguments = arguments_of(ArgInfo.from_prim_func(module["main"]))
            return Library(device.link(self._compiled(module)), arguments)

    def _compiled(self, module: Any) -> Any:
        import tvm

        return tvm.compile(module, self._target)

    def _untuned_ms(self, name: str, module: Any) -> float:
        import tvm
        from tvm.s_tir.meta_schedule.arg_info import ArgInfo
        from tvm.s_tir.meta_schedule.runner.local_runner import default_alloc_argument, default_run_evaluator

        with _building(name):
            built = self._compiled(module).jit()
            arguments = [one.as_json() for one in ArgInfo.from_prim_func(module["main"])]
            given = default_alloc_argument(tvm.cpu(), arguments, 1)
            return 1e3 * mean(map(float, default_run_evaluator(built, tvm.cpu(), self._once, given)))


@contextlib.contextmanager
def _building(kernel: str) -> Iterator[None]:
    """Name the kernel that TVM cannot build; it raises errors of many kinds."""
    import tvm

    try:
        yield
    except Exception as error:
        raise BuildFailed(f"TVM {tvm.__version__} cannot build the kernel {kernel}: {error}") from error


def _own_instructions_only(architecture: str) -> None:
    """Have MetaSchedule know the vector instructions of one kind of processor alone.

    It imports those of all GPUs too, in each process that builds schedules, which are started anew every turn; TVM's parser takes
    25 s of a core for them, and its 30 s for a build are over on a busy machine before it began.
    """
    import tvm.s_tir

    package = types.ModuleType("tvm.s_tir.tensor_intrin")
    package.__path__ = [str(Path(tvm.s_tir.__path__[0]) / "tensor_intrin")]
    sys.modules[package.__name__] = tvm.s_tir.tensor_intrin = package
    importlib.import_module(f"{package.__name__}.{'arm_cpu' if architecture == 'aarch64' else 'x86'}")


def _ms(record: Any) -> float:
    return 1e3 * mean(map(float, record.run_secs))


def _kernels(module: Any, target: Any) -> Iterator[tuple[str, str, int, Any]]:
    """Yield the key, the name, the number of uses and the function of each kernel of an imported network."""
    from tvm import relax
    from tvm.s_tir import meta_schedule

    with target:
        lowered = relax.get_pipeline("zero")(module)
    hashing = meta_schedule.database.MemoryDatabase(module_equality=_EQUALITY)
    for task in meta_schedule.relax_integration.extract_tasks(lowered, target, module_equality=_EQUALITY):
        function = task.dispatched[0]
        if not function.attrs or not function.attrs.get("tirx.is_scheduled", False):
            yield str(hashing.commit_workload(function).as_json()[0]), str(task.task_name), int(task.weight), function


def compiled(network: Network, described: Mapping[str, str], folder: Path) -> tuple[Any, str]:
    """Return the network compiled with the fastest schedules that the folder has for it, and in words how many those are.

    The folder may be written to meanwhile: what stands in it now is used. Raises TuningRefused where it is for other processors.
    """
    import tvm
    from tvm.s_tir import meta_schedule

    check_target(folder, described)
    target, module, count = tvm.target.Target(dict(described)), imported(network), 0
    fastest = meta_schedule.database.MemoryDatabase(module_equality=_EQUALITY)
    with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
        for name in (WORKLOADS, RECORDS):
            if (folder / name).exists():
                shutil.copyfile(str(folder / name), str(Path(scratch) / name))
        mend(Path(scratch))
        records = meta_schedule.database.JSONDatabase(work_dir=scratch, module_equality=_EQUALITY)
        known, used = read_kernels(folder), 0
        for key, _, _, function in _kernels(module, target):
            count += 1
            record = records.query_tuning_record(function, target, "main")
            if record is not None and _ms(record) < known.get(key, {}).get("untuned_ms", float("inf")):
                workload = fastest.commit_workload(function)
                fastest.commit_tuning_record(
                    meta_schedule.database.TuningRecord(record.trace, workload, record.run_secs, target)
                )
                used += 1
    return meta_schedule.relax_integration.compile_relax(
        fastest, module, target, None
    ), f"{used} of {count} kernels tuned"
