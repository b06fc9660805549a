"""The tables of every version of the hub, as a chain of Alembic revisions that ship with it."""
