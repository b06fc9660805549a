"""Tell the hub how each step of a wish goes, and what came of building on the device."""

from __future__ import annotations

from milonga.v1 import agent_pb2, devices_pb2

from milonga_agent.device_builds import Record
from milonga_agent.fetching import Moved
from milonga_agent.memory import Memory
from milonga_agent.outbox import Outbox
from milonga_agent.plan import State, Step
from milonga_agent.pursuit import Tell

# Progress is told this often at most.
_PROGRESS_STEP = 0.1


def sentence(*parts: str) -> str:
    """Return what a device's status says of several matters at once."""
    return "; ".join(filter(None, parts))


class Reports:
    """Tells the hub how the steps of the wish go."""

    def __init__(self, memory: Memory, outbox: Outbox) -> None:
        self._memory = memory
        self._outbox = outbox

    def tell(
        self, step: Step, state: str, message: str = "", progress: float = 0.0, moved: Moved | None = None
    ) -> None:
        """Report that the step has "STARTED", "SUCCEEDED" or "FAILED"."""
        report = step_report(self._memory.state, step, state, message, progress)
        if moved is not None:
            report.moved_bytes, report.neighbour_bytes = moved.moved_bytes, moved.neighbour_bytes
            for device, sent_bytes in moved.neighbours.items():
                report.neighbours[device] = sent_bytes
        report.reported_at.GetCurrentTime()
        self._outbox.report(report)

    def progress(self, step: Step) -> Tell:
        """Return what hears how far the step is."""
        told = 0.0

        def tell(fraction: float, said: str = "") -> None:
            nonlocal told
            if fraction - told >= _PROGRESS_STEP:
                told = fraction
                self.tell(step, "STARTED", said, fraction)

        return tell


def step_report(
    state: State, step: Step, outcome: str, message: str = "", progress: float = 0.0
) -> agent_pb2.StepReport:
    """Return what the hub hears of a step under way; when is for the caller to say."""
    return agent_pb2.StepReport(
        generation=state.wish.generation,
        step=agent_pb2.Step.Value(f"STEP_{step.value}"),
        state=agent_pb2.StepState.Value(f"STEP_STATE_{outcome}"),
        message=message,
        progress=progress,
        attempt=state.position.attempt,
    )


def device_build(record: Record) -> devices_pb2.DeviceBuild:
    """Return what came of a build, as the hub hears it."""
    told = {name: value for name, value in vars(record).items() if name != "state" and value is not None}
    state = devices_pb2.DeviceBuildState.Value(f"DEVICE_BUILD_STATE_{record.state.value}")
    return devices_pb2.DeviceBuild(state=state, **told)
