"""`make bench`: run all benchmarks, or the one that is named. Exit code 1 where a goal does not hold."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.results import show

NAMES = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_") and path.stem != "results"
)


def main() -> int:
    wanted = sys.argv[1:] or NAMES
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    held = True
    for name in wanted:
        print(f"{name}: measuring ...", file=sys.stderr)
        results = importlib.import_module(f"benchmarks.{name}").run()
        show(name, results)
        held = held and all(result.holds is not False for result in results)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
