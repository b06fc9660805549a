"""`milonga-compiler tune`: make a network's kernels faster on this machine, for as long as you like, into a folder that builds use."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from milonga_compiler.backends import backend
from milonga_compiler.errors import CompilerError, in_words
from milonga_compiler.target import Target
from milonga_compiler.tuning import Budget, Step, Tuning, network_ms


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="milonga-compiler tune",
        description=f"{__doc__} Stop it whenever you like, and go on by the same line; networks that share kernels share the folder.",
    )
    parser.add_argument("model", type=Path, help="ONNX file with one float input")
    parser.add_argument("--target", default="tvm/fp32", metavar="ENGINE/PRECISION", help="default: %(default)s")
    parser.add_argument(
        "--architecture", default="", help="as for milonga-compiler build: name it in both, or in neither"
    )
    parser.add_argument("--minutes", type=float, help="what may be spent now (needed where --trials is not given)")
    parser.add_argument("--trials", type=int, help="how many schedules may be tried now")
    parser.add_argument("--database", type=Path, required=True, metavar="FOLDER", help="where what is found is kept")
    parser.add_argument("--threads", type=int, default=1, help="of the devices that it is for (default: %(default)s)")
    parser.add_argument("--log", type=Path, help="file for what the engine prints")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, kernel by kernel")
    given = parser.parse_args(arguments)
    if given.minutes is None and given.trials is None:
        parser.error("say what may be spent: --minutes 10, or --trials 200")
    if any(number is not None and number <= 0 for number in (given.minutes, given.trials, given.threads)):
        parser.error("--minutes, --trials and --threads must be more than 0")
    return given


def main(arguments: list[str] | None = None) -> int:
    """Return 0 where kernels were tuned, or nothing was left to gain; 2 for what cannot be tuned; 130 where it was stopped."""
    given = _arguments(arguments)
    budget = Budget(given.minutes * 60 if given.minutes is not None else None, given.trials)
    tuning, step = Tuning(given.database, budget, given.threads), None
    try:
        target = Target.parse(given.target, given.architecture)
        for step in backend(target.engine, given.log).tune(given.model, target, tuning):
            print(step.words(budget), file=sys.stderr)
    except KeyboardInterrupt:
        print(f"stopped; what was found is kept in {given.database}: the same line goes on", file=sys.stderr)
        return 130
    except (CompilerError, OSError) as error:
        print(f"error: {in_words(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    assert step is not None, "a tuning that begins tells of it"
    _show(step, given.json)
    return 0


def _show(step: Step, as_json: bool) -> None:
    slowest = sorted(step.kernels, key=lambda one: -one.network_ms)
    if as_json:
        said = {"ended": step.ended, "seconds": step.seconds, "trials": step.trials, "failed": step.failed}
        kernels = [{**asdict(one), "network_ms": one.network_ms} for one in slowest]
        print(
            json.dumps(
                {**said, "found": step.found, "network_ms": network_ms(step.kernels), "kernels": kernels}, indent=1
            )
        )
        return
    print(f"{'kernel':<44} {'count':>5} {'untuned':>10} {'best':>10} {'tried':>6}  share")
    whole = network_ms(step.kernels)
    for one in slowest:
        best = f"{one.best_ms:.4f} ms" if one.best_ms is not None else "-"
        name = one.name if len(one.name) <= 44 else f"{one.name[:41]}..."
        print(
            f"{name:<44} {one.count:>5} {one.untuned_ms:>7.4f} ms {best:>10} {one.trials:>6}  {one.network_ms / whole:.0%}"
        )
