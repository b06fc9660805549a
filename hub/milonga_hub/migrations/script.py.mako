"""${message}."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
# Whether hubs of the version before can go on with these tables: nothing that they use is renamed or taken away, and what
# is new has a default of the server. See docs/hubs.md.
adds = False


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
