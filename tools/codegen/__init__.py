"""Makes what follows from the protocol's own words: the services of milonga.client, and docs/api. `make protos` runs it."""
