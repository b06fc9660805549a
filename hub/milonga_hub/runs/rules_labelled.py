"""Whether labels show that a version is right less often than it must be, asked anew with each label. Pure."""

from __future__ import annotations

import math

from scipy.special import betainc, betaln


def chance_of_so_few(right: int, labelled: int, share: float) -> float:
    """Return the largest chance that so few labelled answers are *ever* right where this share of all answers is, or more.

    Labels come one by one and are looked at after each: an interval for one look would be left by chance in time. The inverse is an
    e-process: the likelihood of the labels averaged over lower shares (Jeffreys' prior below `share`), over that of the likeliest share
    which is not lower (Ville's inequality; Ramdas et al. 2023, "Game-theoretic statistics", section 4).
    """
    if labelled <= 0 or right >= share * labelled:
        return 1.0
    wrong = labelled - right
    below = betaln(right + 0.5, wrong + 0.5) - betaln(0.5, 0.5)
    below += math.log(betainc(right + 0.5, wrong + 0.5, share)) - math.log(betainc(0.5, 0.5, share))
    # All must be right where every answer is.
    not_below = right * math.log(share) + wrong * math.log1p(-share) if share < 1.0 else -math.inf
    return min(1.0, math.exp(min(0.0, float(not_below - below))))
