"""What is believed of a new device before it is measured, and how well that would have predicted each known device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from milonga_hub.learning.latency.process import Domain, Draws, Floats, Indices, Posterior, log_density
from milonga_hub.learning.latency.structure import Structure
from milonga_hub.learning.latency.surrogate import Surrogates


class Prior:
    """All that is known before the device is measured: networks, other devices, and the process in both domains."""

    def __init__(
        self,
        features: Floats,
        source_ms: Mapping[str, Floats],
        macs: Floats | None = None,
        families: Mapping[str, str] | None = None,
    ) -> None:
        """See `milonga_hub.learning.latency.fit` for what these are, and for the errors raised."""
        self.structure = Structure.of(features, macs)
        self.count = len(self.structure.choices)
        known = {name: np.asarray(ms, dtype=np.float64) for name, ms in source_ms.items()}
        for name, ms in known.items():
            if ms.shape != (self.count,):
                raise ValueError(f"source {name!r} has shape {ms.shape}; there are {self.count} networks")
            if np.any(ms <= 0) or np.isinf(ms).any():
                raise ValueError(
                    f"source {name!r} has latencies that are not finite and above 0 ms; use NaN where not measured"
                )
        measured = {name: ms for name, ms in known.items() if np.isfinite(ms).sum() >= _FEWEST}
        self.sources = Surrogates(self.structure, measured)
        self._families = [(families or {}).get(name, name) for name in self.sources.names]
        self.domains = [self._domain(name, range(len(self.sources.names))) for name in ("log", "linear")]
        family_count = len(set(self._families))
        self.draws = [Draws.first(domain.name, domain.parts, family_count) for domain in self.domains]
        self._trials: dict[bytes, list[list[Trial]]] = {}

    def curves(self) -> Floats:
        """Return (n, m) what each source would measure, and each cost."""
        return np.asarray(np.c_[np.exp(self.sources.smooth), self.structure.costs])

    def _domain(self, name: str, kept: Sequence[int]) -> Domain:
        kept = list(kept)
        return Domain(name, self.structure, self.sources.smooth[:, kept], self.sources.rest[:, kept])

    def trials(self, measured: Indices, judged: Indices) -> list[list[Trial]]:
        """Return for each domain a trial a family; none where there are fewer than two families."""
        key = measured.tobytes() + b"|" + judged.tobytes()
        if key not in self._trials:
            families = sorted(set(self._families))
            self._trials[key] = [
                [self._trial(domain.name, family, measured, judged) for family in families if len(families) > 1]
                for domain in self.domains
            ]
        return self._trials[key]

    def _trial(self, name: str, family: str, measured: Indices, judged: Indices) -> Trial:
        rows = np.array([one == family for one in self._families])
        ms = np.exp(self.sources.smooth[:, rows] + self.sources.rest[:, rows])
        return Trial(self._domain(name, list(np.flatnonzero(~rows))), ms.T, measured, judged)


# A trend through fewer points says nothing.
_FEWEST = 3


class Trial:
    """One family as if it were new: measured on some networks, predicted on others from all other families."""

    def __init__(self, domain: Domain, ms: Floats, measured: Indices, judged: Indices) -> None:
        """`ms` (devices of the family, networks)."""
        self._known = domain.kernels(measured, measured)
        self._across = domain.kernels(judged, measured)
        self._prior = domain.diagonals(judged)
        self._level, self._unit = domain.level[measured], domain.noise_unit(measured)
        self._level_judged, self._unit_judged = domain.level[judged], domain.noise_unit(judged)
        found = [domain.residual(each[measured], measured) for each in ms]
        self._residual = np.stack([residual for residual, _, _ in found])
        scales = np.array([scale for _, scale, _ in found])[:, None]
        if domain.name == "log":
            self._wanted = np.log(ms[:, judged] / scales) - domain.trend[judged]
            self._jacobian = 0.0
        else:
            self._wanted = ms[:, judged] / scales - domain.trend[judged]
            self._jacobian = float(np.log(ms[:, judged] / scales).mean())

    def score(self, draws: Draws) -> Floats:
        """Return the mean log density (draws,) of what was to be predicted."""
        noise = draws.noise_at(self._level) * self._unit
        across = draws.kernel(self._across)
        inverse = Posterior.inverted(draws.kernel(self._known), noise)
        gain = across @ inverse
        variance = np.maximum(draws.weights @ self._prior - (gain * across).sum(axis=2), 1e-9)
        variance += draws.noise_at(self._level_judged) * self._unit_judged
        error = self._wanted[None] - np.swapaxes(gain @ self._residual.T, 1, 2)
        density = log_density(error, variance[:, None])
        return np.asarray(density.mean(axis=(1, 2)) + self._jacobian)
