"""Collect what helps to find a fault, in one .tar.gz: log, state, inventory, versions and checks; no keys, no tokens.

Only what is named here goes in: what an agent comes to keep later stays out until somebody adds it.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import sys
import tarfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from milonga_agent import doctor
from milonga_agent.journal import paths
from milonga_agent.limits import Limits, default_threads
from milonga_agent.secrecy import redacted

# State of the agent; keys and certificates are files of their own, and are none of these.
_FILES = ("state.json", "identity.json", "serving.json", "boots.json", "care.json")


def bundle(folder: Path, secrets: Collection[str] = ()) -> bytes:
    """Return the archive about the agent with this data folder."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in _texts(folder).items():
            content = redacted(text, secrets).encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"milonga-diagnostics/{name}")
            entry.size, entry.mtime = len(content), int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def _texts(folder: Path) -> Mapping[str, str]:
    newest, former = paths(folder)
    texts = {"agent.log": _read(former) + _read(newest)}
    texts.update({name: _read(folder / name) for name in _FILES if (folder / name).exists()})
    parts: dict[str, Callable[[], str]] = {
        "checks.json": lambda: json.dumps([vars(check) for check in doctor.examine(folder)], indent=1, default=str),
        "inventory.json": lambda: _inventory(folder),
        "versions.txt": _versions,
        "files.txt": lambda: _listing(folder),
    }
    for name, make in parts.items():
        try:
            texts[name] = make()
        except Exception as error:  # What cannot be collected is part of the fault.
            texts[name] = f"could not be collected: {type(error).__name__}: {error}\n"
    return texts


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"cannot be read: {error.strerror}\n" if path.exists() else ""


def _inventory(folder: Path) -> str:
    from google.protobuf.json_format import MessageToJson

    from milonga_agent.inventory import probe

    return str(MessageToJson(probe(Limits(threads=default_threads()), folder=folder), preserving_proto_field_name=True))


def _versions() -> str:
    found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    lines = [f"{name}=={version}" for name, version in sorted(found.items(), key=lambda pair: str(pair[0]).lower())]
    return "\n".join([f"Python {sys.version}", *lines]) + "\n"


def _listing(folder: Path) -> str:
    """Return names and sizes of what the agent keeps, and no contents."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    lines = [f"{path.stat().st_size:>12} {path.relative_to(folder)}" for path in files]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the archive about the folder that is the first argument to standard output; secrets come as lines."""
    secrets = [line for line in sys.stdin.read().splitlines() if line]
    sys.stdout.buffer.write(bundle(Path(sys.argv[1]), secrets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
