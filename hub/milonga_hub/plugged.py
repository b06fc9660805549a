"""Which plug-ins this machine has, and whether each can be used: they are loaded in a process of its own, which may end as it likes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace

from milonga import preprocessing
from milonga.plugins import Plugin, PluginBroken, listed, named
from milonga_compiler import engines

from milonga_hub.projects.rules import PLUGGED_SPACES, SPACES

BACKENDS, RUNTIMES = engines.GROUP, "milonga.runtimes"
# A space brings torch with it, which takes its time on a small machine.
_SECONDS = 120.0
# What is told of stands behind it: plug-ins may print.
_MARK = "\0plug-in "


def everything() -> list[Plugin]:
    """Return all plug-ins as their distributions describe them; nothing is loaded."""
    # The agent's own engines are the compiler's.
    own_engines = engines.own()
    taken = {
        PLUGGED_SPACES: [name for names in SPACES.values() for name in names],
        BACKENDS: own_engines,
        RUNTIMES: own_engines,
        preprocessing.GROUP: [],
    }
    return [plugin for group, names in taken.items() for plugin in listed(group, names)]


def examined() -> list[Plugin]:
    """Return all plug-ins; one that cannot be loaded says so in its `problem`. Those for devices are tried there."""
    found = everything()
    waiting = [plugin for plugin in found if plugin.group != RUNTIMES and not plugin.problem]
    told = dict(zip(map(_key, waiting), _tried(waiting), strict=True))
    return [told.get(_key(plugin), plugin) for plugin in found]


def _key(plugin: Plugin) -> tuple[str, str, str]:
    return plugin.group, plugin.name, plugin.distribution


def _tried(waiting: list[Plugin]) -> list[Plugin]:
    """Return the plug-ins with their problems. Where one ends the process, those behind it are tried in another."""
    if not waiting:
        return []
    asked = json.dumps([asdict(plugin) for plugin in waiting])
    command = [sys.executable, "-m", "milonga_hub.plugged"]
    try:
        done = subprocess.run(command, input=asked.encode(), capture_output=True, timeout=_SECONDS, check=False)
        printed, ended = done.stdout, f"ended with exit code {done.returncode}"
    except subprocess.TimeoutExpired as late:
        printed, ended = late.stdout or b"", f"took more than {_SECONDS:.0f} s"
    said = [line.partition(_MARK)[2] for line in printed.decode(errors="replace").splitlines() if _MARK in line]
    told = [replace(plugin, problem=json.loads(one)) for plugin, one in zip(waiting, said, strict=False)]
    if len(told) == len(waiting):
        return told
    told.append(replace(waiting[len(told)], problem=f"the process that loaded it {ended}"))
    return [*told, *_tried(waiting[len(told) :])]


def problem_of(plugin: Plugin) -> str:
    """Load what the plug-in brings, here, and return what is wrong with it; empty for nothing."""
    if plugin.problem or plugin.group == RUNTIMES:
        return plugin.problem
    try:
        if plugin.group == PLUGGED_SPACES:
            # The process is this check's alone: torch is loaded in no other.
            named("milonga_hub.learning.spaces:plugged")(plugin.name)
        elif plugin.group == BACKENDS:
            _try_back_end(plugin)
        else:
            preprocessing.step(plugin.name)
    except (PluginBroken, ValueError) as error:
        return str(error)
    return ""


def _try_back_end(plugin: Plugin) -> None:
    from milonga_compiler.backends import in_process
    from milonga_compiler.environments import usable

    known = engines.plugged()
    if broken := next((one.problem for one in known.plugins if one.name == plugin.name), ""):
        raise PluginBroken(broken)
    # Where its packages are missing, `milonga-compiler engines` says so, as of Milonga's own.
    if usable(plugin.name):
        in_process(plugin.name)


if __name__ == "__main__":
    for one in json.load(sys.stdin):
        print(_MARK + json.dumps(problem_of(Plugin(**one))), flush=True)
