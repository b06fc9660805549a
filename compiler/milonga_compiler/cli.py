"""`milonga-compiler`: see which engines can build here, add one, or build a network for one target."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from milonga_compiler import __main__ as building
from milonga_compiler.engines import ENGINES
from milonga_compiler.environments import add, adding_line, interpreter, usable
from milonga_compiler.errors import CompilerError


def main(arguments: list[str] | None = None) -> int:
    """Return 0 where it worked, 1 for a build that is not verified, 2 for what cannot be done as asked."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["build"]:
        return building.main(given[1:])
    return _engines(_parser().parse_args(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="milonga-compiler", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="build a network for one target and prove it; see: milonga-compiler build --help")
    engines = verbs.add_parser("engines", help="list engines: what they offer, whether they can be used here")
    engines.add_argument("--json", action="store_true", help="print them as JSON")
    adding = engines.add_subparsers(dest="what").add_parser(
        "add", help="make an environment with an engine's own packages, in a cache folder"
    )
    adding.add_argument("engine", choices=sorted(ENGINES))
    return parser


def _engines(given: argparse.Namespace) -> int:
    if given.what == "add":
        try:
            print(f"{given.engine} can be used: {add(given.engine)}")
        except CompilerError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    described = [_described(name) for name in ENGINES]
    if given.json:
        print(json.dumps(described, indent=1))
        return 0
    for one in described:
        state = "usable" if one["usable"] else f"missing; run: {one['add']}"
        print(f"{one['engine']:<12} {', '.join(one['precisions']):<17} built on the {one['build_site']:<7} {state}")
        if not one["verification"].startswith("verified"):
            print(f"{'':<12} {one['verification']}")
    return 0


def _described(name: str) -> dict[str, Any]:
    engine = ENGINES[name]
    return {
        "engine": name,
        "precisions": [str(precision) for precision in engine.precisions],
        "architectures": list(engine.architectures),
        "build_site": str(engine.build_site),
        "verification": engine.verification,
        "usable": usable(name),
        "interpreter": interpreter(name) if usable(name) else "",
        "add": adding_line(name),
    }
