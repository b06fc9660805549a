"""Whether people agree: which pictures two of them are asked about, and how much their answers say. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from milonga_hub.labelling.models import Agreement, ClassAgreement, Decision, Opinion
from milonga_hub.labelling.rules import same_objects

_DRAWS = 1 << 32


def asked_twice(name: str, share: float) -> bool:
    """Return whether two people are asked about the sample: this share of all, always the same ones."""
    drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    return drawn < share * _DRAWS


def agree(one: Opinion, other: Opinion) -> bool:
    """Return whether both said the same class, or the same objects one by one."""
    return one.label == other.label and same_objects(one.boxes, other.boxes)


def agreement(pairs: Sequence[tuple[Opinion, Opinion]]) -> Agreement | None:
    """Return how well people agree, with Cohen's kappa of each class against all others; None without a pair.

    Of objects a class counts as said where at least one box has it.
    """
    if not pairs:
        return None
    names = sorted({name for pair in pairs for opinion in pair for name in _classes(opinion)})
    return Agreement(
        pictures=len(pairs),
        agreed=sum(agree(*pair) for pair in pairs),
        classes=[_of_class(name, pairs) for name in names],
    )


def _of_class(name: str, pairs: Sequence[tuple[Opinion, Opinion]]) -> ClassAgreement:
    first, second = ([name in _classes(pair[place]) for pair in pairs] for place in (0, 1))
    # Where both always said the same one thing, chance explains it all, and kappa is 0/0.
    kappa = None if len({*first, *second}) < 2 else _kappa(first, second)
    said = sum(one or other for one, other in zip(first, second, strict=True))
    return ClassAgreement(label=name, pictures=said, kappa=kappa)


def _kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    # Loaded where it is needed: it takes a second and 60 MB, and most hubs ask nobody twice.
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(first, second))


def _classes(opinion: Opinion) -> set[str]:
    return {opinion.label} if opinion.label else {box.label for box in opinion.boxes}


def told(opinions: Sequence[Opinion]) -> str:
    """Return who said what, for those who decide: "kim: nut; lee: bolt"."""
    return "; ".join(f"{one.by}: {shown(one)}" for one in opinions)


def shown(said: Opinion | Decision) -> str:
    """Return what one says that the picture shows: "nut", or "1 nut, 2 bolt"."""
    names = [box.label for box in said.boxes]
    return said.label or ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "no object"
