"""Have a device time what MetaSchedule tries: kernels are linked here for its processor, packed, and handed to who asks it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable

from milonga_compiler.errors import DeviceGone
from milonga_compiler.timing import Library, Timer, Times, pack


class Device:
    """What stands between MetaSchedule and the device; `waited_seconds` is how long none was there, in all."""

    def __init__(self, timer: Timer, compiler: str) -> None:
        """`compiler` links for the device's processor."""
        self._timer, self._compiler = timer, compiler
        self.name = ""
        self.waited_seconds = 0.0
        # Set where nothing more is timed: an error that TVM carries out of its search need not be the one that was raised.
        self.gone: DeviceGone | None = None

    @property
    def export(self) -> Callable[[Any], str]:
        """Return what MetaSchedule's processes write a built schedule with."""
        return partial(_linked, self._compiler)

    def link(self, built: Any) -> Path:
        """Return where a built kernel lies as a library of the device's processor."""
        return Path(_linked(self._compiler, built))

    def time(self, libraries: Sequence[Library]) -> Times:
        """Return what the device found. Raises DeviceGone where there is none."""
        if not libraries:
            return Times()
        descriptor, name = tempfile.mkstemp(suffix=".zip")
        os.close(descriptor)
        try:
            pack(libraries, Path(name))
            times = self._timer(Path(name))
        finally:
            Path(name).unlink()
        self.waited_seconds += times.waited_seconds
        if times.gone:
            self.gone = DeviceGone(times.gone)
            raise self.gone
        self.name = times.device
        return times

    def runner(self) -> Any:
        """Return MetaSchedule's runner, which has all schedules of a turn timed together."""
        from tvm.ir.utils import derived_object
        from tvm.s_tir.meta_schedule.runner import PyRunner
        from tvm.s_tir.meta_schedule.runner.local_runner import LocalRunnerFuture

        device = self

        @derived_object
        class DeviceRunner(PyRunner):  # type: ignore[misc]
            def run(self, runner_inputs: Any) -> list[Any]:
                given = [Library(Path(str(one.artifact_path)), arguments_of(one.args_info)) for one in runner_inputs]
                times = device.time(given)
                return [
                    LocalRunnerFuture(error_message=error or "it was not timed")
                    if ms is None
                    else LocalRunnerFuture(res=[ms / 1e3])
                    for ms, error in zip(times.ms, times.errors)
                ]

        return DeviceRunner()


def arguments_of(described: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the dtypes and shapes that MetaSchedule describes a function's arguments with."""
    arguments = []
    for one in described:
        kind, dtype, shape = one.as_json()
        assert str(kind) == "TENSOR", "functions of networks take tensors alone"
        arguments.append((str(dtype), tuple(int(size) for size in shape)))
    return tuple(arguments)


def _linked(compiler: str, built: Any) -> str:
    path = str(Path(tempfile.mkdtemp()) / "kernel.so")
    built.export_library(path, cc=compiler)
    return path
