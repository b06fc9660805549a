"""The loop of one run: prepare, train, profile, search, fine-tune where asked for, build, compare, roll out. A baseline trains
after it has chosen; a model from elsewhere is built alone.

Every stage can be repeated: jobs return what they finished, measurements and builds are kept by name, a rollout is
created once. A run that was interrupted therefore starts at the top and passes silently over what is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from milonga_hub import tracing
from milonga_hub.projects.models import SearchStrategy
from milonga_hub.runs.baseline import choose_levels, measure_levels, train_levels
from milonga_hub.runs.building import build
from milonga_hub.runs.candidates import Specialised
from milonga_hub.runs.deliver import compare, roll_out
from milonga_hub.runs.finetune import finetune
from milonga_hub.runs.imported import prepare_imported
from milonga_hub.runs.models import FINETUNE
from milonga_hub.runs.prepare import prepare
from milonga_hub.runs.profile import profile
from milonga_hub.runs.specialise import search
from milonga_hub.runs.stages import Report, stage
from milonga_hub.runs.train import train
from milonga_hub.runs.work import Work

T = TypeVar("T")


async def carry_out(work: Work) -> str:
    """Do the run from wherever it stands and return its outcome in words."""

    async def do(name: str, action: Callable[[Report], Awaitable[T]]) -> T:
        with tracing.span(f"run {name}", run=work.run.name):
            return await stage(work.services.runs, work.run.name, name, action)

    imported = work.run.imported
    if imported is not None:
        plan, found = await do("prepare", lambda report: prepare_imported(work, imported, report))
        version, found = await do("build", lambda report: build(work, plan, {"checkpoint": ""}, found, report))
        sent_out = f"milonga rollouts create {version.model}/{version.number}"
        return _outcome(f"{version.name} is {imported.file_name}; send it out: {sent_out}", found)
    plan = await do("prepare", lambda report: prepare(work, report))
    if plan.spec.search.strategy is SearchStrategy.BASELINE:
        levels = await do("profile", lambda report: measure_levels(work, plan, report))
        chosen = await do("search", lambda report: choose_levels(work, plan, levels, report))
        trained, found = await do("train", lambda report: train_levels(work, plan, levels, chosen, report))
    else:
        trained = await do("train", lambda report: train(work, plan, report))
        profiled = await do("profile", lambda report: profile(work, plan, trained, report))
        found = await do("search", lambda report: search(work, plan, trained, profiled, report))
        if plan.spec.training.finetune_epochs:
            inherited = found
            found = await do(FINETUNE, lambda report: finetune(work, plan, trained, inherited, report))
    version, found = await do("build", lambda report: build(work, plan, trained, found, report))
    better = await do("compare", lambda report: compare(work, plan, version, report))
    if not better:
        return _outcome(f"{version.name} is not better than what the devices run: they keep it", found)
    await do("rollout", lambda report: roll_out(work, plan, version, better, report))
    return _outcome(f"{version.name} is live on {', '.join(sorted(better))}", found)


def _outcome(words: str, found: Specialised) -> str:
    return " ".join([f"{words}.", *found.impossible.values()])
