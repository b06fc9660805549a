"""How much each project may take of a hub, and how much it takes."""
