"""Hold a build against the network that it was made from, on real pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.backends.base import Floats
from milonga_compiler.errors import BuildFailed

# fp32 engines reorder sums; an error above this share of the logits' range is a wrong result, not rounding.
FP32_RELATIVE_ERROR = 1e-3


@dataclass(frozen=True)
class Report:
    """Figures of a build. Accuracies and agreement are shares of the validation pictures, 0 to 1.

    `max_abs_error` is the largest difference of any logit; infinite where an output is not a finite number.
    """

    accuracy: float
    subnet_accuracy: float
    agreement: float
    max_abs_error: float
    count: int

    @property
    def lost_points(self) -> float:
        """Accuracy lost against the subnet, in percentage points; negative where the build is better."""
        return (self.subnet_accuracy - self.accuracy) * 100.0


def compare(logits: Floats, reference: Floats, labels: NDArray[np.int64]) -> Report:
    """Return the figures of logits (n, c) against reference logits (n, c) of the subnet, with labels (n,).

    Raises BuildFailed where the shapes differ: the build is then another network.
    """
    if logits.shape != reference.shape:
        raise BuildFailed(f"its outputs have the shape {logits.shape}, the subnet's {reference.shape}")
    answers, expected = logits.argmax(axis=1), reference.argmax(axis=1)
    finite = bool(np.isfinite(logits).all())
    return Report(
        accuracy=float((answers == labels).mean()),
        subnet_accuracy=float((expected == labels).mean()),
        agreement=float((answers == expected).mean()),
        max_abs_error=float(np.abs(logits - reference).max()) if finite else float("inf"),
        count=len(labels),
    )


def objection(report: Report, logits: Floats, reference: Floats, precision: str, max_lost_points: float) -> str | None:
    """Return why a build must not be used, in figures, or None where it holds."""
    if not np.isfinite(logits).all():
        return f"{int((~np.isfinite(logits)).any(axis=1).sum())} of {report.count} outputs are not finite numbers"
    allowed = FP32_RELATIVE_ERROR * max(1.0, float(np.abs(reference).max()))
    if precision == "fp32" and report.max_abs_error > allowed:
        return f"its outputs differ by up to {report.max_abs_error:.3g} from the subnet's, {allowed:.3g} allowed"
    # Accuracies are shares of whole pictures, so 1e-9 only forgives the rounding of the subtraction.
    if report.lost_points > max_lost_points + 1e-9:
        return (
            f"lost {report.lost_points:.2f} points of accuracy ({report.subnet_accuracy:.2%} to {report.accuracy:.2%}"
            f" on {report.count} pictures), {max_lost_points:g} allowed"
        )
    return None
