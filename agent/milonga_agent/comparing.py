"""What a shadow's answers come to beside those of the model that serves, and whether it may serve itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from milonga_agent.errors import BadBundle
from milonga_agent.plan import Shadow, State


@dataclass(frozen=True)
class Comparison:
    """Counts of one shadow. Of a picture one answer is compared: its class; of a detector its boxes, old and new ones."""

    requests: int = 0
    # Requests that came while another was compared.
    skipped: int = 0
    # Those that the shadow could not answer; all of their answers differ.
    failed: int = 0
    answers: int = 0
    agreeing: int = 0
    # Medians of the engines over the same requests.
    serving_ms: float = 0.0
    shadow_ms: float = 0.0

    @property
    def disagreement(self) -> float:
        """Return the share of the answers that differ; detectors that both see nothing agree."""
        return 1.0 - self.agreeing / self.answers if self.answers else 0.0

    def __str__(self) -> str:
        parts = [f"{self.requests} requests compared"]
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        parts += [f"{self.failed} not answered"] if self.failed else []
        if self.requests:
            parts += [f"{self.disagreement:.1%} of the answers differ"]
        if self.shadow_ms:
            parts += [f"{self.shadow_ms:.3g} ms where what serves takes {self.serving_ms:.3g} ms (medians)"]
        return ", ".join(parts)


def nothing_to_compare(state: State) -> str:
    """Return why the wish under way needs no shadow on this device, empty where it does."""
    if not state.active.bundle or state.active.project != state.wish.project:
        return "nothing of this project served here that it could be compared with"
    return "it serves here already" if state.active.bundle == state.wish.bundle else ""


def judge(wanted: Shadow, seen: Comparison) -> str:
    """Return what there is to say of a shadow whose time is over. Raises BadBundle where it may not serve."""
    if seen.requests < wanted.min_requests:
        few = f"saw only {seen.requests} requests in {wanted.minutes:g} minutes, {wanted.min_requests} were asked for"
        if not wanted.go_on:
            raise BadBundle(f"{few}; give it more time, ask for fewer, or let it go on: see spec.rollout.shadow")
        if not seen.requests:
            return few
        return f"{few}; {_held_to(wanted, seen)}"
    return _held_to(wanted, seen)


def _held_to(wanted: Shadow, seen: Comparison) -> str:
    # A count over a count: 3 of 30 is no more than a tenth, whatever the floating point says.
    if seen.disagreement > wanted.max_disagreement + 1e-9:
        raise BadBundle(f"{seen}; at most {wanted.max_disagreement:.1%} may differ")
    return str(seen)
