"""Several hubs on one database: who they are, which of them leads, and what they tell each other."""
