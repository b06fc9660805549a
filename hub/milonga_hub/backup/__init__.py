"""All of a hub in one file, and a hub out of one."""
