"""`make fuzz-rest`: every operation of REST, called by schemathesis as its description allows and as it does not.

No call may fail in the hub, and every answer must be one that the description tells of. An admin and a viewer call, with names that
are there and with made ones. Deterministic, but for what the hub's clock is part of. Exit code 1 where something was found.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

from milonga_hub.callers import Caller, CallerKind, Role
from milonga_hub.transports.http import create_app, serve

from tests.fuzz.names import KNOWN
from tests.web.filled import Services, filled
from tests.web.people import PASSWORD

CHECKS = ("not_a_server_error", "status_code_conformance", "response_schema_conformance", "content_type_conformance")
# A stream, which never ends; and what waits for a device's agent, of which there is none here.
LEFT_OUT = ("/api/v1/events", "/api/v1/devices/{device}/diagnostics")
_SECONDS_FOR_AN_ANSWER = 60
# Made once, of all operations: seconds, but many of them where other programs have the machine.
_SECONDS_FOR_THE_DESCRIPTION = 600


def key_of(hub: Services, name: str, role: Role) -> str:
    """Return an API key of a new person."""
    hub.accounts.create(name, role, PASSWORD)
    _, secret = hub.accounts.api_keys.create(Caller(name, CallerKind.ACCOUNT, role, account=name), "fuzz", role)
    return secret


class Server:
    """A hub with a busy day behind it, in a thread of this process."""

    def __init__(self, folder: Path) -> None:
        self.hub = filled(folder)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self.url = ""
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    async def _serve(self) -> None:
        running, port = await serve(create_app(self.hub), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{port}"
        self._ready.set()
        await self._ended.wait()
        await running.stop()

    def __enter__(self) -> Server:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


def call_all(url: str, key: str, examples: int, known: bool, only: str = "") -> int:
    """Run schemathesis and return its exit code; `known` takes names that are there for what paths name."""
    # The hub makes the description when it is first asked, and keeps it; schemathesis waits ten seconds and no longer.
    described = urllib.request.Request(f"{url}/api/openapi.json", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(described, timeout=_SECONDS_FOR_THE_DESCRIPTION) as answer:
        answer.read()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "schemathesis.toml"
        lines = [f'"path.{name}" = {value!r}'.replace("'", '"') for name, value in KNOWN.items()] if known else []
        config.write_text("\n".join(["[parameters]", *lines, ""]), encoding="utf-8")
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/api/openapi.json",
            "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples),
            "--generation-deterministic", "--no-color",
            "--continue-on-failure", "--warnings", "off", "--request-timeout", str(_SECONDS_FOR_AN_ANSWER),
            "--suppress-health-check", "all", "--header", f"Authorization: Bearer {key}",
        ]  # fmt: skip
        for path in LEFT_OUT:
            command += ["--exclude-path", path]
        if only:
            command += ["--include-path-regex", only]
        return subprocess.run(command, env=os.environ, cwd=folder, check=False).returncode


def main() -> int:
    """Call everything, by both."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.rest", description=__doc__)
    parser.add_argument(
        "--examples", type=int, default=15, help="made calls of each operation, beside those at its limits"
    )
    parser.add_argument("--only", default="", help="paths that fit this regular expression")
    asked = parser.parse_args()
    worst = 0
    for role in (Role.VIEWER, Role.ADMIN):
        for known in (False, True):
            # Each begins with everything there: an admin deletes much of it.
            with tempfile.TemporaryDirectory(prefix="milonga-fuzz-") as folder, Server(Path(folder)) as server:
                print(f"{role.lower()}, names that are {'there' if known else 'made'}", flush=True)
                key = key_of(server.hub, "fuzz", role)
                worst = max(worst, call_all(server.url, key, asked.examples, known, asked.only))
    return worst


if __name__ == "__main__":
    sys.exit(main())
