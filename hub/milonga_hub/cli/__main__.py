"""`python -m milonga_hub.cli` is `milonga`."""

import sys

from milonga_hub.cli import main

sys.exit(main())
