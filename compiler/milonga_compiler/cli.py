"""`milonga-compiler`: see which engines can build here, add one, tune a network's kernels, build it for one target, or write a program or a container for a bundle."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milonga_compiler import __main__ as building
from milonga_compiler import tune_command as tuning
from milonga_compiler.engines import ENGINES, plugged
from milonga_compiler.environments import add, adding_line, environment, interpreter, size_bytes, usable
from milonga_compiler.errors import CompilerError, in_words
from milonga_compiler.examples import example, needs
from milonga_compiler.export import export
from milonga_compiler.tango import ARCHITECTURES, TYPES, export_tango
from milonga_compiler.unread import quiet_when_unread


@quiet_when_unread
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 where it worked, 1 for a build that is not verified, 2 for what cannot be done as asked."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["build"]:
        return building.main(given[1:])
    if given[:1] == ["tune"]:
        return tuning.main(given[1:])
    parsed = _parser().parse_args(given)
    return {"example": _example, "export": _export, "engines": _engines}[parsed.verb](parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="milonga-compiler", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="build a network for one target and prove it; see: milonga-compiler build --help")
    verbs.add_parser("tune", help="make a network's kernels faster on this machine; see: milonga-compiler tune --help")
    program = verbs.add_parser(
        "example", help="write a program that runs a bundle with its engine, numpy and Pillow alone"
    )
    program.add_argument("bundle", type=Path, help="folder with manifest.json")
    program.add_argument("--output", type=Path, help="file to write (default: print it)")
    container = verbs.add_parser("export", help="write a Containerfile that serves a bundle without a hub")
    container.add_argument("bundle", type=Path, help="folder with manifest.json")
    container.add_argument("--output", type=Path, required=True, help="new folder to write")
    container.add_argument("--kubernetes", action="store_true", help="write kubernetes.json too, for kubectl apply -f")
    container.add_argument(
        "--image",
        default="",
        metavar="REGISTRY/NAME:TAG",
        help="what the image is called (default: project and digest)",
    )
    container.add_argument(
        "--tango", choices=TYPES, help="write what TANGO's deployers for this target read, in place of a Containerfile"
    )
    container.add_argument(
        "--architecture",
        choices=ARCHITECTURES,
        default="",
        help="of the device, for --tango (default: of the bundle's machine code, else arm for ondevice and x86 for others)",
    )
    engines = verbs.add_parser("engines", help="list engines: what they offer, whether they can be used here")
    engines.add_argument("--json", action="store_true", help="print them as JSON")
    adding = engines.add_subparsers(dest="what").add_parser(
        "add", help="make an environment with an engine's own packages, in a cache folder"
    )
    adding.add_argument("engine", choices=sorted(ENGINES))
    return parser


def _example(given: argparse.Namespace) -> int:
    try:
        text = example(given.bundle)
        if given.output is None:
            print(text, end="")
        else:
            given.output.write_text(text, encoding="utf-8")
            print(f"{given.output} is written; it needs: {needs(text)}")
            print(f"run: python {given.output} PICTURE --bundle {given.bundle}")
    except (CompilerError, OSError) as error:
        print(f"error: {in_words(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    return 0


def _export(given: argparse.Namespace) -> int:
    try:
        if given.tango:
            written = export_tango(given.bundle, given.output, given.tango, given.architecture)
        else:
            written = export(given.bundle, given.output, given.kubernetes, given.image)
    except (CompilerError, OSError) as error:
        print(f"error: {in_words(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    then = "TANGO's deployers take the folder" if given.tango else "the Containerfile says how to build and run it"
    print(f"written: {', '.join(map(str, written))}; {then}")
    if given.kubernetes and not given.image and not given.tango:
        print("a cluster that pulls its images wants to know from where: give --image REGISTRY/NAME:TAG")
    return 0


def _engines(given: argparse.Namespace) -> int:
    if given.what == "add":
        return _add(given.engine)
    described = [_described(name) for name in ENGINES]
    if given.json:
        print(json.dumps(described, indent=1))
        return 0
    for one in described:
        state = "usable" if one["usable"] else f"missing; run: {one['add']}"
        print(f"{one['engine']:<12} {', '.join(one['precisions']):<17} built on the {one['build_site']:<7} {state}")
        if one["plugin"]:
            print(f"{'':<12} brought by {one['plugin']}")
        if not one["verification"].startswith("verified"):
            print(f"{'':<12} {one['verification']}")
    for plugin in plugged().plugins:
        if plugin.problem:
            print(f"{plugin.name:<12} left out, of {plugin.distribution}: {plugin.problem}")
    return 0


def _add(engine: str) -> int:
    if usable(engine):
        print(f"{engine} can be used already: {interpreter(engine)}")
        return 0
    place = environment(engine)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(str(place.parent)).free
        # Before pip's own lines, which come from another process.
        print(f"{engine} gets an environment of its own: {place} ({free / 1e9:.1f} GB are free there)", flush=True)
        add(engine)
    except KeyboardInterrupt:
        print(
            f"stopped; the same line begins again, and takes what pip has fetched: {adding_line(engine)}",
            file=sys.stderr,
        )
        return 130
    except (CompilerError, OSError) as error:
        print(f"error: {in_words(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    print(
        f"{engine} can be used: it takes {size_bytes(place) / 1e9:.1f} GB; to remove it: rm -r {shlex.quote(str(place))}"
    )
    return 0


def _described(name: str) -> dict[str, Any]:
    engine, plugin = ENGINES[name], plugged().of(name)
    return {
        "engine": name,
        "precisions": [str(precision) for precision in engine.precisions],
        "architectures": list(engine.architectures),
        "build_site": str(engine.build_site),
        "verification": engine.verification,
        "usable": usable(name),
        "interpreter": interpreter(name) if usable(name) else "",
        "add": adding_line(name),
        "plugin": f"{plugin.distribution} {plugin.version}" if plugin else "",
    }
