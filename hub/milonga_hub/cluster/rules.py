"""What a job takes of a cluster, what it reads, and which node can do it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milonga_hub.errors import InvalidInput

# Entries of a job's spec that name files or folders which it reads. Other kinds run on the hub's machine: imports may be
# pickles, and deltas are shorter than their way.
READS: Mapping[str, Sequence[str]] = {
    "train": ("data", "base_checkpoint"),
    "profile": ("checkpoint",),
    "levels": (),
    "assess": ("checkpoint", "data"),
    "judge": ("checkpoint", "costs"),
    "search": ("checkpoint", "costs", "data"),
    "build": ("onnx", "expected", "data", "held"),
    "original": ("onnx", "data"),
    "compare": ("champion", "challenger", "data"),
}
# Folders that outlive a job: it goes on with what earlier ones left there.
KEEPS: Mapping[str, Sequence[str]] = {"build": ("tuning_database",)}

_EVERY = "all"
_PART = re.compile(r"(cpu|gpu|memory_gib|workers):(\d+(?:\.\d+)?)")
# Processes that train together, each with what the job takes.
_TEAMS = ("train",)


@dataclass(frozen=True)
class Resources:
    """What each worker of a job takes of a node, or what a node has."""

    cpus: int = 1
    gpus: float = 0.0
    memory_bytes: int = 0
    workers: int = 1

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU{'s' if self.cpus != 1 else ''}"]
        parts += [f"{self.gpus:g} GPU{'s' if self.gpus != 1 else ''}"] if self.gpus else []
        parts += [f"{self.memory_bytes / (1 << 30):.3g} GiB"] if self.memory_bytes else []
        return ", ".join(parts) + (f", for each of {self.workers} workers" if self.workers > 1 else "")

    def times(self, wanted: Resources) -> int:
        """Return how many workers of a job would fit into this."""
        pairs = (
            (self.cpus, wanted.cpus),
            (self.gpus, wanted.gpus),
            (self.memory_bytes, wanted.memory_bytes),
        )
        return min(int(has // needs) for has, needs in pairs if needs)


@dataclass(frozen=True)
class Node:
    id: str
    address: str
    has: Resources


def resources(texts: Sequence[str]) -> dict[str, Resources]:
    """Return what each kind of job takes, from words such as "train=cpu:8,gpu:1,memory_gib:16"; "all" is for the others.

    Raises InvalidInput for what cannot be read.
    """
    given: dict[str, Resources] = {}
    for text in texts:
        kind, _, parts = text.partition("=")
        if kind not in (*READS, _EVERY):
            raise InvalidInput(f"there are no jobs {kind!r} on a cluster; name {', '.join(READS)} or {_EVERY}")
        given[kind] = _read(text, kind, parts)
    return {kind: given.get(kind, given.get(_EVERY, Resources())) for kind in READS}


def _read(text: str, kind: str, parts: str) -> Resources:
    found = [_PART.fullmatch(part.strip()) for part in parts.split(",")]
    read = {one[1]: float(one[2]) for one in found if one}
    whole = {name: read.get(name, 1.0) for name in ("cpu", "workers")}
    if len(read) < len(found) or any(number < 1 or not number.is_integer() for number in whole.values()):
        raise InvalidInput(f"{text!r} is not what a job takes; write {kind}=cpu:8,gpu:1,memory_gib:16")
    if whole["workers"] > 1 and kind not in _TEAMS:
        raise InvalidInput(f"{text!r}: only {', '.join(_TEAMS)} jobs are shared by several workers")
    memory = round(read.get("memory_gib", 0.0) * (1 << 30))
    return Resources(int(whole["cpu"]), read.get("gpu", 0.0), memory, int(whole["workers"]))


def lacking(nodes: Sequence[Node], kind: str, wanted: Resources) -> str:
    """Return why the nodes together cannot do a job of this kind, and what to do; "" where they can."""
    if sum(node.has.times(wanted) for node in nodes) >= wanted.workers:
        return ""
    if not nodes:
        return "the Ray cluster has no node; add one: ray start --address HEAD:6379"
    most = "; ".join(sorted({str(node.has) for node in nodes}))
    least = f"{kind}=cpu:{max(1, min(wanted.cpus, *(node.has.cpus for node in nodes)))}"
    return (
        f"a {kind} job is to take {wanted}, and the nodes of the Ray cluster have {most}; lower it, such as --ray-resources {least},"
        " or add a node"
    )


def differences(hub: Mapping[str, str], node: Mapping[str, str]) -> list[str]:
    """Return in words what a node has in other versions than the hub. What follows a "+" is how a version was compiled."""
    return [
        f"{name} {node.get(name) or 'none'} instead of {wanted}"
        for name, wanted in hub.items()
        if node.get(name, "").partition("+")[0] != wanted.partition("+")[0]
    ]


def reads(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """Return the paths that a job reads, each once."""
    return list(dict.fromkeys(path for key in READS[kind] for path in _paths(spec.get(key))))


def keeps(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """Return the folders that a job goes on with and leaves to later ones."""
    return [path for key in KEEPS.get(kind, ()) for path in _paths(spec.get(key))]


def _paths(value: Any) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if one]


def sent(kind: str, spec: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """Return the spec as it is on the node, where each path has another place."""
    found = dict(spec)
    for key in (*READS[kind], *KEEPS.get(kind, ())):
        value = spec.get(key)
        if isinstance(value, list):
            found[key] = [places[one] for one in value]
        elif value:
            found[key] = places[value]
    return found


def returned(value: Any, places: Mapping[str, str]) -> Any:
    """Return a result with the hub's paths in place of the node's; `places` has the hub's for each folder or file there."""
    if isinstance(value, dict):
        return {key: returned(one, places) for key, one in value.items()}
    if isinstance(value, list):
        return [returned(one, places) for one in value]
    if isinstance(value, str):
        for there, here in places.items():
            if value == there or value.startswith(f"{there}/"):
                return here + value[len(there) :]
    return value


def preferred(nodes: Sequence[Node], wanted: Resources, held_bytes: Mapping[str, int]) -> str | None:
    """Return the node that can do it and holds most of what it reads already; None where none holds anything."""
    able = [node for node in nodes if node.has.times(wanted) and held_bytes.get(node.id)]
    return max(able, key=lambda node: (held_bytes[node.id], node.id)).id if able else None


def node_of(described: Mapping[str, Any]) -> Node:
    """Return a node as Ray describes it."""
    known: Mapping[str, float] = described["Resources"]
    has = Resources(int(known.get("CPU", 0)), known.get("GPU", 0.0), int(known.get("memory", 0)))
    return Node(described["NodeID"], described["NodeManagerAddress"], has)
