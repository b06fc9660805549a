"""The protocol of Milonga: generated messages and services in `milonga.v1`."""
