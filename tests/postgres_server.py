"""A throw-away PostgreSQL for tests. `python -m tests.postgres_server COMMAND...` runs the command with one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISSING = "PostgreSQL is not installed: apt-get install postgresql, or let PATH have its initdb and postgres"
VARIABLE = "MILONGA_TEST_POSTGRESQL"
_ROOM_BYTES = 4 << 30
# Nothing that tests write has to outlive the machine.
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "400",
    "shared_buffers": "128MB",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
}


def programs() -> Path | None:
    """Return the folder of the newest initdb and postgres here, None where there are none."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: float(each.parent.name), reverse=True)
    candidates = [*([Path(found).parent] if found else []), *folders]
    return next((each for each in candidates if (each / "initdb").exists() and (each / "postgres").exists()), None)


@contextmanager
def running() -> Iterator[str]:
    """Yield the URL of a server of its own, on a socket in a temporary folder; nothing of it is left afterwards."""
    folder = programs()
    if folder is None:
        raise SystemExit(MISSING)
    user = _user()
    with tempfile.TemporaryDirectory(prefix="milonga-pg-", dir=_fast_folder(), ignore_cleanup_errors=True) as place:
        if user is not None:
            os.chown(place, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        data = Path(place) / "data"
        made: list[str | Path] = [
            folder / "initdb",
            "--pgdata",
            data,
            "--username",
            "milonga",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
        ]
        # Text in the order of people, as most servers have it, and not of bytes as in SQLite.
        order = ["--locale-provider", "icu", "--icu-locale", "en", "--locale", "C.UTF-8", "--no-sync"]
        subprocess.run([*made, *order], check=True, capture_output=True, user=user, cwd=place)
        settings = {**_SETTINGS, "unix_socket_directories": place, "listen_addresses": ""}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        control: list[str | Path] = [folder / "pg_ctl", "--pgdata", data, "--log", Path(place) / "log", "--wait"]
        # Its output goes to the log, so that no pipe waits for the server's end.
        quiet: Any = {"user": user, "cwd": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if subprocess.run([*control, "--options", options, "start"], check=False, **quiet).returncode != 0:
            raise SystemExit(f"PostgreSQL did not start: {(Path(place) / 'log').read_text(errors='replace')}")
        try:
            yield f"postgresql+psycopg://milonga@/postgres?host={place}"
        finally:
            subprocess.run([*control, "--mode", "immediate", "stop"], check=False, **quiet)


def _fast_folder() -> str | None:
    """Return a folder in memory, where that has room for the databases of some tests at a time."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= _ROOM_BYTES:
        return str(memory)
    return None


def _user() -> str | None:
    """Return as whom the server runs, None for who runs this: it refuses to be run by root."""
    if os.getuid() != 0:
        return None
    known = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def main(arguments: list[str]) -> int:
    """Run a command with a server; return its exit code."""
    with running() as url:
        return subprocess.run(arguments, check=False, env={**os.environ, VARIABLE: url}).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
