"""Projects and models as other tools write them."""
