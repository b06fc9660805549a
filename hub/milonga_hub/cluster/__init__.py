"""Jobs on the nodes of a Ray cluster (docs/ray.md): what the hub starts, what runs on a node, and what travels between."""
