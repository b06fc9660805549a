"""`make test-aarch64`: make an aarch64 user-space once, then run the tests that need it. Exit code as pytest's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from milonga_compiler.environments import add, usable
from milonga_compiler.errors import CompilerError

from tests.aarch64.userland import make
from tests.debian import CannotBeMade


def main() -> int:
    began = time.monotonic()

    def tell(words: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {words}", flush=True)

    try:
        userland = make(tell)
        if not usable("tvm"):
            tell("making an environment for TVM, which compiles here")
            add("tvm")
    except (CannotBeMade, CompilerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tell("running what it is for; emulation takes a minute or two")
    tests = str(Path(__file__).parent)
    environment = {**os.environ, "MILONGA_AARCH64": str(userland.folder)}
    return subprocess.run([sys.executable, "-m", "pytest", "-v", tests, *sys.argv[1:]], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
