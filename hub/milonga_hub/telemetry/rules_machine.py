"""What histograms of machines say: how much power they drew, and whether they were throttled. Pure."""

from __future__ import annotations

from milonga_hub.telemetry.figures import Histogram, Stored, unpacked

# As agents name them among the inputs of a window.
POWER, THROTTLED = "power", "throttled"
_POWER_BYTES, _THROTTLED_BYTES = POWER.encode(), THROTTLED.encode()


def mean_watts(power: Histogram | None) -> float | None:
    """Return the mean of what was drawn; None where no machine tells."""
    if power is None or not sum(power.counts):
        return None
    width = (power.high - power.low) / len(power.counts)
    drawn = (2 ** (power.low + (index + 0.5) * width) * count for index, count in enumerate(power.counts))
    return float(sum(drawn)) / sum(power.counts)


def throttled_share(throttled: Histogram | None) -> float | None:
    """Return the share of windows in which a machine was throttled, of those whose machines tell."""
    if throttled is None or not sum(throttled.counts):
        return None
    return throttled.counts[-1] / sum(throttled.counts)


def told(stored: Stored) -> dict[str, Histogram]:
    """Return a window's histograms where its machine tells of either; most do not, and theirs are not read."""
    if not stored:
        return {}
    if isinstance(stored, bytes):
        # Alerts ask this of every window of a fleet, again and again: written out it takes a third of the time.
        tells = _POWER_BYTES in stored or _THROTTLED_BYTES in stored
    else:
        tells = POWER in stored or THROTTLED in stored
    found: dict[str, Histogram] = unpacked("histograms", stored) if tells else {}
    return found
