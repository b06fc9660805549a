"""Makes what follows from the protocol's own words: the services of milonga.client. `make protos` runs it."""
